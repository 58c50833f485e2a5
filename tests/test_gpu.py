"""What only a GPU can show: its kernels, its precision, its augmentation. Where there is none, all of it is skipped."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from test_painting import AUGMENT
from test_painting import made as made_pictures
from test_training_methods import dry, events, values, weights
from test_unpadding import EXACT, made, opened

import hfadapt
from hfadapt.recipe import Recipe
from hfadapt.settings import has_bfloat16
from hfadapt.training import packing, painting

__all__ = ["dry"]

GPU = torch.device("cuda")

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors"),
]


def learnt(model, batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return loss.detach().float(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", EXACT)
def test_without_padding_loss_and_gradients_are_those_of_padded_rows(kind, half, backbone):
    model, rows, collate = made(backbone, kind)
    model.to(GPU)
    batch = {name: its.to(GPU) for name, its in collate(list(rows)).items()}
    way = lambda: torch.autocast("cuda", torch.bfloat16, enabled=half)  # noqa: E731
    with way():
        goal, gradients = learnt(model, batch)
    with opened(model, rows, collate, autocast=way) as (serves, says), way():
        assert serves, says
        loss, found = learnt(model, batch)
    close = 3e-2 if half else 1e-4
    assert abs(float(loss - goal)) < close
    assert all(
        (found[name] - its).abs().max() < close * max(1.0, float(its.abs().max())) for name, its in gradients.items()
    )


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
def test_kernels_take_texts_of_several_lengths_at_once_with_dropout(half, backbone, monkeypatch):
    calls, whole = [], packing._at_once
    monkeypatch.setattr(packing, "_at_once", lambda *given: calls.append(given[2]) or whole(*given))
    model, rows, collate = made(backbone, "bert")
    model.to(GPU).train()
    for module in model.modules():
        if hasattr(module, "dropout_prob"):
            module.dropout_prob = 0.1
    batch = {name: its.to(GPU) for name, its in collate(list(rows)).items()}
    way = lambda: torch.autocast("cuda", torch.bfloat16, enabled=half)  # noqa: E731
    with opened(model, rows, collate, autocast=way) as (serves, says), way():
        assert serves, says
        calls.clear()
        loss, found = learnt(model, batch)
    assert len(calls) == 2, "the kernels were used"
    assert math.isfinite(float(loss)) and all(its.isfinite().all() for its in found.values())


def test_on_a_gpu_it_is_timed_whether_padding_pays(backbone):
    model, rows, collate = made(backbone, "bert")
    before = torch.cuda.get_rng_state()
    with opened(model.to(GPU), rows, collate, "auto") as (_, says):
        assert "computed without padding" in says or "computing padding is as fast" in says
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_pictures_are_augmented_on_the_gpu_as_they_are_without(backbone, monkeypatch):
    took = iter([2.0, 1.0])
    monkeypatch.setattr(painting, "_least", lambda run, threads: (run(), next(took))[1])
    rows = made_pictures(backbone, **AUGMENT)
    places = [(epoch, row) for epoch in range(8) for row in range(6)]
    goal = np.stack([row["pixel_values"] for row in rows.visit(places)])
    with painting.painting(rows, GPU, workers=0) as (painter, says):
        assert painter, says
        begun = rows.visit(places)
        pixels = torch.from_numpy(np.stack([row["pixel_values"] for row in begun]))
        found = painter.levelled(painter.painted(pixels, [row[painting.SEED] for row in begun]))
    assert found.device.type == "cuda"
    step = float(np.diff(painter.levels.cpu().numpy(), axis=1).max())
    assert (np.abs(found.cpu().numpy() - goal) > 2.5 * step).mean() < 0.01


@pytest.mark.skipif(not has_bfloat16(), reason="this GPU does not multiply in bfloat16")
def test_a_run_learns_in_bfloat16_and_goes_on(dry, few, tmp_path):
    recipe = values(dry, few, "full", num_train_epochs=2)
    made = hfadapt.plan(Recipe(**recipe))
    assert made.settled["bf16"] is True

    class Killed(Exception):
        pass

    def kill(event):
        if event["event"] == "step" and event["step"] == 5:
            raise Killed

    whole = hfadapt.adapt(made, tmp_path / "whole")
    with pytest.raises(Killed):
        hfadapt.adapt(made, tmp_path / "cut", listener=kill)
    resumed = hfadapt.adapt(made, resume=tmp_path / "cut")
    losses = [event["loss"] for event in events(whole.path, "trained")]
    assert all(map(math.isfinite, losses))
    (one, two) = (weights(its.path) for its in (whole, resumed))
    assert all(its.dtype == torch.float32 for its in one.values())
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-2


def test_a_probe_keeps_what_lies_below_on_a_gpu(dry, few, tmp_path):
    recipe = values(dry, few, "linear-probe", num_train_epochs=3)
    losses = []
    for cache in ("on", "off"):
        given = copy.deepcopy(recipe) | {"cache": cache}
        run = hfadapt.adapt(hfadapt.plan(Recipe(**given)), tmp_path / cache)
        assert [event["serves"] for event in events(run.path, "cache")] == [cache == "on"]
        losses.append([event["loss"] for event in events(run.path, "trained")])
    assert losses[0] == pytest.approx(losses[1], abs=2e-2 if has_bfloat16() else 1e-5)
