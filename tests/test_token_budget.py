"""Batches of a number of tokens: within the budget, every row once, as many in each epoch, exact, resumed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from test_training_methods import Killed, distance, dry, events, killed_at, values, weights
from transformers import AutoModelForSequenceClassification

import hfadapt
from hfadapt.errors import HfadaptError
from hfadapt.recipe import Recipe
from hfadapt.settings import BATCHES, MAX_TOKENS, cut, in_tokens, steps_per_epoch
from hfadapt.training.rows import Rows, TokenBatches
from hfadapt.training.trainer import StageTrainer
from hfadapt.training.vocabulary import UsedRows

__all__ = ["dry"]

LENGTHS = np.random.default_rng(0).integers(3, 60, 500)
BUDGET = 256


def batches(epoch: int, process: int = 0, processes: int = 1, together: int = 2, lengths=LENGTHS, budget=BUDGET):
    number = in_tokens({MAX_TOKENS: budget}, lengths.tolist())[BATCHES]
    return TokenBatches(
        Rows(lengths, lengths),
        tokens=budget,
        batches=number,
        processes=processes,
        process=process,
        together=together,
        seed=7,
        epoch=lambda: epoch,
    )


@pytest.mark.parametrize("budget", [59, 100, 256, 1000, 100_000])
def test_every_row_once_within_the_budget_and_as_many_batches_in_each_epoch(budget):
    numbers = set()
    for epoch in range(5):
        found = batches(epoch, budget=budget)
        made = found.visit(epoch)
        numbers |= {len(made), len(found), len(list(found))}
        assert sorted(np.concatenate(made)) == list(range(500))
        assert max(len(batch) * LENGTHS[batch].max() for batch in made) <= budget
    assert len(numbers) == 1
    fewest = len(cut(sorted(LENGTHS.tolist(), reverse=True), budget))
    assert fewest <= numbers.pop() <= math.ceil(1.05 * fewest)


def test_little_is_padding():
    made = batches(0).visit(0)
    padded = sum(len(batch) * LENGTHS[batch].max() for batch in made)
    assert LENGTHS.sum() / padded > 0.9
    assert LENGTHS.sum() / (len(made) * BUDGET) > 0.8


def test_epochs_differ_and_come_again():
    one, again, other = ([set(batch.tolist()) for batch in batches(epoch).visit(epoch)] for epoch in (0, 0, 1))
    assert one == again
    # Neither the order only, nor all of the company.
    assert sum(batch in other for batch in one) < 0.2 * len(one)


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_batches_of_one(processes):
    whole = [batch.tolist() for batch in batches(1, together=processes).visit(1)]
    shares = [list(batches(1, process, processes, together=processes)) for process in range(processes)]
    assert len({len(share) for share in shares}) == 1
    dealt = [batch for step in zip(*shares, strict=True) for batch in step]
    assert dealt[: len(whole)] == whole
    # A ghost is a row's number and that of the rows; see Rows.
    assert all(batch == [500 + LENGTHS.argmin()] for batch in dealt[len(whole) :])


def test_ghosts_where_batches_are_too_few():
    lengths = np.full(3, 50)
    shares = [list(batches(0, process, 2, lengths=lengths, budget=50)) for process in range(2)]
    assert [len(share) for share in shares] == [2, 2]
    assert shares[1][1] == [3]


def test_steps_of_an_epoch():
    settled = {MAX_TOKENS: BUDGET, BATCHES: 101, "gradient_accumulation_steps": 2}
    assert [steps_per_epoch(settled, 500, processes) for processes in (1, 2)] == [51, 26]


@pytest.mark.parametrize("lengths", [None, [30, 300]])
def test_lengths_that_do_not_fit(lengths):
    with pytest.raises(HfadaptError) as caught:
        in_tokens({MAX_TOKENS: BUDGET}, lengths)
    assert caught.value.problems[0].field == "train.per_device_train_max_tokens"
    assert in_tokens({}, lengths) == {}


_MOST = 150


def budgeted(dry, few, **train: Any) -> Recipe:
    made = values(dry, few, "full", per_device_train_max_tokens=_MOST, gradient_accumulation_steps=2, **train)
    del made["train"]["per_device_train_batch_size"]
    made["model"] = {"name": made["model"], "unpad": "on"}
    return Recipe(**made)


@pytest.fixture(scope="module")
def steps(dry, few, tmp_path_factory):
    """A finished run, its plan, and of each batch: the weights before, the inputs, the gradients after."""
    seen = []
    train = StageTrainer.training_step

    def spy(self, model, inputs, *rest):
        before = {name: its.clone() for name, its in model.state_dict().items()}
        given = {name: its.clone() for name, its in inputs.items() if isinstance(its, torch.Tensor)}
        loss = train(self, model, inputs, *rest)
        gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
        for name, module in model.named_modules():
            if isinstance(module, UsedRows):
                rows = gradients[f"{name}.weight"]
                gradients[f"{name}.weight"] = torch.cat([rows, torch.zeros_like(module.others)])[module.places]
        seen.append((before, given, gradients))
        return loss

    plan = hfadapt.plan(budgeted(dry, few))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StageTrainer, "training_step", spy)
        run = hfadapt.adapt(plan, tmp_path_factory.mktemp("budget") / "run")
    return run, plan, seen


def test_the_gradient_is_that_of_all_rows_of_a_step_padded(steps):
    run, plan, seen = steps
    model = AutoModelForSequenceClassification.from_pretrained(run.model).eval()
    per_epoch = plan.settled[BATCHES]
    assert per_epoch % 2 and len(seen) > per_epoch
    epoch = seen[:per_epoch]
    for step in (epoch[i : i + 2] for i in range(0, per_epoch, 2)):
        model.load_state_dict(step[0][0])
        model.zero_grad()
        rows = sum(len(inputs["labels"]) for _, inputs, _ in step)
        for _, inputs, _ in step:
            logits = model(**{name: its for name, its in inputs.items() if name != "labels"}).logits
            (torch.nn.functional.cross_entropy(logits, inputs["labels"], reduction="sum") / rows).backward()
        found = step[-1][2]
        assert max(float((p.grad - found[name]).abs().max()) for name, p in model.named_parameters()) < 1e-5
    assert len({len(inputs["labels"]) for _, inputs, _ in epoch}) > 1
    assert all(inputs["input_ids"].numel() <= _MOST for _, inputs, _ in epoch)
    assert sum(len(inputs["labels"]) for _, inputs, _ in epoch) == 16


def test_epochs_are_counted_in_its_batches(steps):
    run, plan, seen = steps
    each = steps_per_epoch(plan.settled, 16, 1)
    assert plan.steps == 8 and len(seen) == 8 // each * plan.settled[BATCHES] + 2 * (8 % each)
    assert len(events(run, "trained")) == 8


def test_a_run_that_was_killed_goes_on_bit_for_bit(steps, dry, few, tmp_path):
    """In the middle of its second epoch, with padding taken out."""
    run, plan, _ = steps
    step = steps_per_epoch(plan.settled, 16, 1) + 2
    assert step < plan.steps
    with pytest.raises(Killed):
        hfadapt.adapt(plan, tmp_path / "cut", listener=killed_at("full", step))
    again = hfadapt.adapt(plan, resume=tmp_path / "cut")
    assert len(events(again, "begin")) == 2
    assert distance(weights(run), weights(again)) == 0.0
    assert [event["serves"] for event in events(again, "unpad")] == [True, True]


@pytest.mark.slow
def test_two_processes_end_where_one_does(dry, few, pair, tmp_path):
    """And where a process has no batch of its own left, it has a ghost."""
    recipe = budgeted(dry, few, load_best_model_at_end=False)
    one = hfadapt.adapt(hfadapt.plan(recipe), tmp_path / "one")
    halved = recipe.model_dump(exclude_unset=True)
    halved["train"]["gradient_accumulation_steps"] = 1
    two = pair.adapt(halved, tmp_path / "two")
    assert distance(weights(one), weights(two)) < 1e-6
    losses = [[event["loss"] for event in events(run, "trained")] for run in (one, two)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
