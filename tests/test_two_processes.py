"""Two processes end where one does: stages, adapters, terms, companions, pretraining."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_pretraining import STILL
from test_pretraining import losses as pretraining_losses
from test_pretraining import recipe as pretraining
from test_training_methods import distance, dry, events, middles, values, weights

import hfadapt
from hfadapt import tiny
from hfadapt.folder import Run
from hfadapt.noise import quiet
from hfadapt.recipe import Recipe

__all__ = ["dry"]


TWO = {
    "gradual": "gradual",
    "adapted": {"method": "ema", "decay": 0.5, "inner": {"method": "lora", "r": 2}},
    "held": {"method": "l2-sp", "alpha": 1.0, "inner": "lp-ft"},
}
"""What two processes carry out, as one does; the first is killed in its last stage besides."""


@pytest.fixture(scope="module")
def joined(dry, few, pair, tmp_path_factory):
    """The folder with what one process made, `one/…`, and two, `two/…` and `two/cut`."""
    folder = tmp_path_factory.mktemp("joined")
    (folder / "two").mkdir()
    for name, adapt in TWO.items():
        recipe = values(dry, few, adapt, max_steps=20, load_best_model_at_end=False)
        hfadapt.adapt(made := hfadapt.plan(Recipe(**recipe)), folder / "one" / name)
        recipe["train"]["per_device_train_batch_size"] = 4
        pair.adapt(recipe, folder / "two" / name)
        if name == "gradual":
            (*_, last) = middles(made).items()
            pair.adapt(recipe, folder / "two" / "cut", kill=last)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", TWO)
def test_two_processes_end_where_one_does(name, joined):
    """Also what was frozen when DistributedDataParallel first looked."""
    one, two = (weights(joined / number / name) for number in ("one", "two"))
    assert distance(one, two) < 1e-6
    losses = [[event["loss"] for event in events(joined / number / name, "trained")] for number in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert len(losses[0]) == 20


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TWO, "cut"])
def test_two_processes_hold_the_same_model(name, joined):
    """Bit for bit, at the end of all stages."""
    one, other = (torch.load(joined / "two" / f"{name}.{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(one[tensor], other[tensor]) for tensor in one)
    assert len(one) > 10


@pytest.mark.slow
def test_two_processes_that_were_killed_after_the_unfreezing_go_on_bit_for_bit(joined):
    assert distance(weights(joined / "two" / "gradual"), weights(joined / "two" / "cut")) == 0.0
    assert len(events(joined / "two" / "cut", "begin")) == 2


@pytest.mark.slow
def test_an_anchor_and_an_average(toy, pair, tmp_path):
    """See test_processes for the small weights."""
    from conftest import TEXTS

    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.02}
    with quiet():
        tiny.checkpoint(tmp_path / "model", "bert", TEXTS, **still)
    values: dict[str, Any] = {
        "task": "text-classification",
        "model": str(tmp_path / "model"),
        "data": {"path": str(toy), "text": "text", "label": "label"},
        "adapt": {"method": "ema", "decay": 0.7, "inner": {"method": "anchor", "weight": 3.0}},
        "train": {"num_train_epochs": 1, "learning_rate": 1e-3, "per_device_train_batch_size": 8},
    }
    one = hfadapt.adapt(hfadapt.plan(Recipe(**values)), tmp_path / "one").path
    values["train"]["per_device_train_batch_size"] = 4
    two = pair.adapt(values, tmp_path / "two")
    assert distance(weights(one), weights(two)) < 1e-6


@pytest.mark.slow
def test_pretraining(toy, pair, tmp_path):
    from conftest import TEXTS

    with quiet():
        # As in test_processes: rounding in gradients that are zero must stay below Adam's epsilon.
        tiny.checkpoint(tmp_path / "model", "bert", TEXTS, initializer_range=0.02, **STILL)
    values = pretraining(tmp_path / "model", toy, epochs=2, batch_size=8, learning_rate=1e-3, train={"max_steps": 4})
    hfadapt.adapt(hfadapt.plan(values), tmp_path / "one")
    halved = values.model_dump(exclude_unset=True)
    halved["adapt"]["batch_size"] = halved["train"]["per_device_train_batch_size"] = 4
    pair.adapt(halved, tmp_path / "two")
    one, two = (Run(tmp_path / name) for name in ("one", "two"))
    # 51 rows: the last batch of an epoch is filled up with ghosts, and rows have different numbers of masked tokens.
    assert pretraining_losses(one, "pretrain") == pytest.approx(pretraining_losses(two, "pretrain"), abs=1e-5)
    assert len(pretraining_losses(one, "pretrain")) == 14
    a, b = weights(one), weights(two)
    assert max(float((a[name] - b[name]).abs().max()) for name in a) < 1e-6
