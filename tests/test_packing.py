"""Tokens without padding: attention in groups or in one call, on whatever device, is that of padded texts."""

from __future__ import annotations

import warnings
from functools import partial
from logging import getLogger

import numpy as np
import pytest
import torch
from elsewhere import DEVICE, Elsewhere
from test_training_methods import distance, dry, events, values, weights
from test_unpadding import EXACT, learnt, made, opened
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

import hfadapt
from hfadapt.noise import quiet
from hfadapt.recipe import Recipe
from hfadapt.training import packing, unpadding
from hfadapt.training.caching import remembered
from hfadapt.training.packing import Packed, attend, now, of_lengths
from hfadapt.training.rows import LENGTHS, Collate, ends
from hfadapt.training.vocabulary import only_used

__all__ = ["dry"]

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")

LENGTHS_OF_TEXTS = [3, 9, 0, 8, 1]


def mask(lengths) -> torch.Tensor:
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()


@pytest.fixture
def kernels(monkeypatch):
    """A CPU that is treated as a GPU: how many texts each call of the attention took."""
    calls, whole = [], packing._at_once
    monkeypatch.setattr(unpadding, "KERNELS", ("cpu",))

    def counted(packed, *rest):
        calls.append(len(packed.offsets) - 1)
        return whole(packed, *rest)

    monkeypatch.setattr(packing, "_at_once", counted)
    return calls


@pytest.mark.parametrize("kind", EXACT)
def test_in_one_call_loss_and_every_gradient_are_those_of_padded_rows(kind, backbone, kernels):
    model, rows, collate = made(backbone, kind)
    goal, gradients = learnt(model, rows, collate)
    with opened(model, rows, collate) as (serves, says):
        assert serves, says
        kernels.clear()
        loss, found = learnt(model, rows, collate)
    # Blocks of ModernBERT look at all of their text, or near themselves; GPT-2's look back.
    assert kernels == [len(rows)] * {"modernbert": 1, "gpt2": 0}.get(kind, 2)
    assert abs(float(loss - goal)) < 1e-5 and found.keys() == gradients.keys()
    assert max(float((found[name] - its).abs().max()) for name, its in gradients.items()) < 1e-5


def parts(width: int = 8, device=None) -> list[torch.Tensor]:
    """Queries, keys and values of all texts, (1, heads, tokens, width)."""
    draw = torch.Generator().manual_seed(0)
    made = [torch.randn(1, 2, sum(LENGTHS_OF_TEXTS), width, generator=draw) for _ in range(3)]
    return [its.to(device) if device else its for its in made]


def test_dropout_and_scale_reach_the_kernels():
    packed = Packed.of(mask(LENGTHS_OF_TEXTS), 1.0)
    goal = packing._at_once(packed, parts(), scaling=0.2)
    texts = [
        nn.functional.scaled_dot_product_attention(*its, scale=0.2)[0].transpose(0, 1)
        for its in zip(*(its.split([9, 8, 3, 1], 2) for its in parts()), strict=True)
    ]
    assert torch.allclose(goal[0], torch.cat(texts), atol=1e-5)
    torch.manual_seed(0)
    drawn = torch.stack([packing._at_once(packed, parts(), 0.5, 0.2) for _ in range(400)])
    assert not torch.equal(drawn[0], drawn[1])
    error = drawn.std(0) / 20
    assert ((drawn.mean(0) - goal).abs() < 5 * error + 1e-5).all()


@pytest.mark.parametrize("more", [{"is_causal": True}, {"position_bias": torch.zeros(1)}, {"softcap": 2.0}])
def test_attention_that_is_asked_for_more_goes_in_groups(more):
    assert packing._is_simple(nn.Module(), {"dropout": 0.1, "scaling": 0.2, "is_causal": False, "position_bias": None})
    assert not packing._is_simple(nn.Module(), more)
    shared = nn.Module()
    shared.num_key_value_groups = 2
    assert not packing._is_simple(shared, {})


def attended(device=None) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """What comes of packed tokens, (1, tokens, heads, width), and their gradients."""
    hides = mask(LENGTHS_OF_TEXTS)
    packed = Packed.of(hides.to(device) if device else hides, 1.0)
    full = (hides[:, None, None, :] > 0).expand(-1, 1, 9, -1)
    inputs = [its.requires_grad_() for its in parts(device=device)]
    module = nn.Module()
    module.is_causal = False
    now.set(packed)
    try:
        answer, _ = attend(module, *inputs, full.to(device) if device else full, within=sdpa_attention_forward)
    finally:
        now.set(None)
    spread = packed.unpack(answer.flatten(2))
    assert spread.shape == (5, 9, 16) and packed.pack(spread).shape == (1, 21, 16)
    gradients = torch.autograd.grad((answer * answer).sum(), inputs)
    return (answer.cpu(), [its.cpu() for its in gradients]) if device else (answer, list(gradients))


def test_in_groups_no_tensor_of_another_device_meets_the_tokens():
    goal, gradients = attended()
    with Elsewhere():
        found, others = attended(DEVICE)
    assert torch.allclose(found, goal, atol=1e-6)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(others, gradients, strict=True))


def test_lengths_that_are_known_are_not_read_from_a_mask():
    """To read them from a device is to wait for it."""
    packed = Packed.of(mask(LENGTHS_OF_TEXTS), 1.0)
    unread = torch.empty(5, 9, device="meta")
    with of_lengths(np.array(LENGTHS_OF_TEXTS)):
        assert Packed.of(unread, 0.4) is None
        known = Packed.of(unread, 0.5)
    assert known.sizes == packed.sizes == [9, 8, 3, 1, 0] and known.places.device == unread.device
    with of_lengths(np.array(LENGTHS_OF_TEXTS[1:])), pytest.raises(NotImplementedError):
        Packed.of(unread, 1.0)


def test_a_batch_says_how_long_its_rows_are(backbone):
    _, rows, collate = made(backbone, "bert")
    batch = Collate(collate)(list(rows))
    assert batch[LENGTHS].tolist() == rows.lengths.tolist()
    assert ends(mask([2, 3]).flip(1)) is None and ends(None) is None and ends(torch.ones(2, 1, 2, 2)) is None


@pytest.mark.parametrize(
    ("padded", "without", "fullest"), [(2.0, 1.0, 0.7), (9.0, 1.0, 0.9), (1.0, 1.0, None), (1.0, 1.5, None)]
)
def test_on_a_device_padding_is_taken_out_where_that_is_timed_to_pay(
    padded, without, fullest, backbone, kernels, monkeypatch
):
    model, rows, collate = made(backbone, "bert")
    model.config.hidden_dropout_prob = 0.5
    took = iter([0.0] + [padded] * 3 + [without] * 3)
    monkeypatch.setattr(unpadding, "seconds", lambda run: run() or next(took))
    before = torch.get_rng_state()
    with opened(model, rows, collate, "auto") as (serves, says):
        assert serves == (fullest is not None)
        if serves:
            assert says == f"batches of which tokens fill less than {fullest:.0%} are computed without padding"
        else:
            assert says.startswith("computing padding is as fast: 1000.0 ms of a batch 38% full, and ")
    assert torch.equal(torch.get_rng_state(), before) and not model.training
    assert all(p.grad is None for p in model.parameters())


def test_where_it_cannot_be_timed_the_run_goes_on_padded(backbone, kernels, monkeypatch):
    def full(run):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    model, rows, collate = made(backbone, "bert")
    monkeypatch.setattr(unpadding, "seconds", full)
    with opened(model.train(), rows, collate, "auto") as found:
        assert found == (False, "a step fails: CUDA out of memory.")
        assert model.training


@pytest.mark.parametrize("use", ["on", "auto"])
def test_kernels_that_fail_in_training_only_are_found_out(use, backbone, kernels, monkeypatch):
    whole = packing._at_once

    def fails(packed, its, *rest):
        if its[0].requires_grad:
            raise RuntimeError("No backward kernel.")
        return whole(packed, its, *rest)

    monkeypatch.setattr(packing, "_at_once", fails)
    monkeypatch.setattr(unpadding, "seconds", lambda run: run() or 1.0)
    model, rows, collate = made(backbone, "bert")
    with opened(model, rows, collate, use) as (serves, _):
        assert serves == (use == "on")
        learnt(model, rows, collate)


def test_a_run_that_goes_on_unpads_as_before(backbone, kernels, monkeypatch, tmp_path):
    """Whatever a clock says then; and so does every other process."""
    model, rows, collate = made(backbone, "bert")
    took = iter([0.0, *[2.0] * 3, *[1.0] * 3])
    monkeypatch.setattr(unpadding, "seconds", lambda run: run() or next(took))
    note = partial(remembered, tmp_path / "stage" / "unpad.json", False)
    with opened(model, rows, collate, "auto", note=note) as first:
        assert first[0]
    monkeypatch.setattr(unpadding, "seconds", lambda run: pytest.fail("timed again"))
    again = partial(remembered, tmp_path / "stage" / "unpad.json", True)
    with opened(model, rows, collate, "auto", note=again) as second:
        assert second == first
        kernels.clear()
        learnt(model, rows, collate)
    assert kernels


def test_what_has_to_be_the_same_each_time_goes_by_the_rule(backbone, kernels, monkeypatch):
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    model, rows, collate = made(backbone, "bert")
    with opened(model, rows, collate, "auto") as (serves, says):
        assert serves and "90%" in says
        learnt(model, rows, collate)
    assert not kernels


def test_rows_that_it_is_timed_on_may_hold_tokens_that_no_training_row_holds(backbone, kernels):
    model, rows, collate = made(backbone, "bert")
    with only_used(model, np.arange(20)) as (train, _):
        assert train == 20 and max(max(row["input_ids"]) for row in rows) > 20
        with opened(model.train(), rows, collate, "auto") as (_, says):
            assert says
            assert all(module.training for module in model.modules())


def test_where_kernels_fail_texts_go_in_groups(backbone, monkeypatch):
    def fails(*_):
        raise RuntimeError("No available kernel.")

    monkeypatch.setattr(unpadding, "KERNELS", ("cpu",))
    monkeypatch.setattr(packing, "_at_once", fails)
    model, rows, collate = made(backbone, "bert")
    goal, _ = learnt(model, rows, collate)
    with opened(model, rows, collate) as (serves, says):
        assert serves, says
        loss, _ = learnt(model, rows, collate)
    assert abs(float(loss - goal)) < 1e-6


def test_what_the_precision_of_the_training_would_spoil_is_noticed(backbone, kernels, monkeypatch):
    """Kernels may differ by precision; what goes wrong in one only is found in it."""
    whole = packing._at_once
    spoilt = lambda packed, its, *rest: whole(packed, its, *rest) * (1 + (its[0].dtype == torch.bfloat16))  # noqa: E731
    monkeypatch.setattr(packing, "_at_once", spoilt)
    model, rows, collate = made(backbone, "bert")
    for half in (False, True):
        kernels.clear()
        way = lambda half=half: torch.autocast("cpu", torch.bfloat16, enabled=half)  # noqa: E731
        with opened(model, rows, collate, autocast=way) as (serves, _):
            assert serves
            kernels.clear()
            learnt(model, rows, collate)
        assert bool(kernels) == (not half), "in groups, where the kernels answer something else"


@pytest.mark.parametrize("use", ["on", "auto"])
def test_a_run_learns_the_same_in_one_call(use, dry, few, tmp_path, kernels, capfd):
    made = []
    for unpad in (use, "off"):
        recipe = values(dry, few, "full", train_sampling_strategy="random", per_device_train_batch_size=4)
        recipe["model"] = {"name": recipe["model"], "unpad": unpad}
        kernels.clear()
        made.append(hfadapt.adapt(hfadapt.plan(Recipe(**recipe)), tmp_path / unpad).path)
        assert bool(kernels) == (unpad != "off")
    assert all(event["serves"] for event in events(made[0], "vocabulary"))
    losses = [[event["loss"] for event in events(run, "trained")] for run in made]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5) and len(losses[0]) == 8
    assert distance(*map(weights, made)) < 1e-5
    assert capfd.readouterr().err == ""


def test_what_torch_says_of_nested_tensors_is_not_for_users(caplog):
    with warnings.catch_warnings(record=True) as seen, quiet():
        warnings.warn("The PyTorch API of nested tensors is in prototype stage and will change", stacklevel=1)
        getLogger("torch.fx._symbolic_trace").warning("is_fx_tracing will return true")
    assert not seen and not caplog.records
