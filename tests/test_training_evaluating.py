"""Rows are judged by length and counted in their own order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_training_methods import dry, values

import hfadapt
from hfadapt import judging
from hfadapt.data.labels import Labels
from hfadapt.recipe import Recipe
from hfadapt.scoring.slices import Remembered
from hfadapt.scoring.tally import Tally
from hfadapt.training import rows as rows_module
from hfadapt.training.evaluating import evaluate
from hfadapt.training.rows import ByLength, Rows
from hfadapt.training.trainer import ExactLoss

__all__ = ["dry"]


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_each_stretch_is_sorted_by_itself(batch):
    lengths = np.random.default_rng(0).integers(3, 40, 333)
    found = ByLength(Rows(lengths, lengths), batch)
    assert len(found) == 333 and sorted(found.order) == list(range(333))
    for start in range(0, 333, found.stretch):
        part = found.order[start : start + found.stretch]
        assert sorted(part) == list(range(start, start + len(part)))
        assert (np.diff(lengths[part]) <= 0).all()


@pytest.mark.parametrize("chunk", [1, 3, 50])
def test_what_is_found_does_not_know_the_order(chunk, dry, toy, tmp_path, monkeypatch):
    """64 rows in batches of 5, in stretches of 5, 15 and all."""
    monkeypatch.setattr(rows_module, "_CHUNK", chunk)
    data = {"path": str(toy), "text": "text", "label": "label", "validation": 0.2, "test": 0.2}
    plan = hfadapt.plan(Recipe(**values(dry, toy, "full") | {"data": data}))
    whole = judging.encode(plan, "train")
    torch.manual_seed(0)
    model = plan.recipe.task.model(plan.source, plan.config)[0].eval()
    labels: Labels = plan.data.labels
    found, visited = [], []
    for rows in (whole, Rows(whole.table)):
        collate = plan.recipe.task.collator(plan.processor)

        def collated(its, collate=collate, into=visited):
            into.append([len(row["input_ids"]) for row in its])
            return collate(its)

        judged = evaluate(
            model,
            rows,
            loss=ExactLoss(plan.recipe.task, labels),
            tally=lambda: Remembered(Tally("label", labels.names, replicates=50, seed=1), "label"),
            collator=collated,
            settled={"per_device_eval_batch_size": 5},
            folder=str(tmp_path),
        )
        found.append(judged)
    one, other = found
    assert [(miss.row, miss.true, miss.answered) for miss in one.worst] == [
        (miss.row, miss.true, miss.answered) for miss in other.worst
    ]
    assert one.worst and all(whole.table["labels"][miss.row] == miss.true for miss in one.worst)
    assert np.array_equal(one.marks, other.marks) and 0 < one.marks.sum() < len(one.marks)
    assert one.scores == other.scores and one.loss == pytest.approx(other.loss, abs=1e-6)
    batches = len(visited) // 2
    padding = [sum(max(its) * len(its) - sum(its) for its in part) for part in (visited[:batches], visited[batches:])]
    assert padding[0] < 0.7 * padding[1] if chunk > 1 else padding[0] == padding[1]
