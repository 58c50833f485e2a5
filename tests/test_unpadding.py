"""Blocks that compute tokens only answer what padded ones do, and move the same."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TEXTS
from test_training_methods import distance, dry, events, values, weights
from torch import nn

import hfadapt
from hfadapt.backbones.base import anatomy
from hfadapt.noise import quiet
from hfadapt.recipe import Recipe
from hfadapt.tasks.text_classification import TextClassification
from hfadapt.training import prefix as below
from hfadapt.training.packing import Packed
from hfadapt.training.rows import Rows
from hfadapt.training.unpadding import FULLEST, refusal, unpadded

__all__ = ["dry"]

EXACT = ["bert", "roberta", "distilbert", "electra", "modernbert", "gpt2"]
UNEVEN = ["short", *TEXTS, "a text that goes on and on and on, and on, " * 3]


def made(backbone, kind: str):
    """A tiny classifier in eval mode, rows of it, and its collator."""
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = backbone(kind)
    options = {"sliding_window": 3} if kind == "modernbert" else {}
    with quiet():
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3, **options).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    encoded = tokenizer(UNEVEN, truncation=True, max_length=40)
    lengths = np.asarray([len(ids) for ids in encoded["input_ids"]])
    table = Dataset.from_dict({**encoded, "labels": [i % 3 for i in range(len(UNEVEN))]})
    return model, Rows(table, lengths), TextClassification().collator(tokenizer)


def opened(model, rows, collate, use: str = "on", **more):
    return unpadded(model, anatomy(model).block_modules, rows, collate, reads=["logits"], use=use, **more)


def learnt(model, rows, collate) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of all rows and every gradient."""
    model.zero_grad()
    loss = model(**collate(list(rows))).loss
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def entering(module: nn.Module, into: list[tuple[int, ...]]):
    """Notes the shapes of what goes into a module."""
    return module.register_forward_pre_hook(lambda _, args: into.append(tuple(args[0].shape)))


@pytest.mark.parametrize("kind", EXACT)
def test_loss_and_every_gradient_are_those_of_padded_rows(kind, backbone):
    model, rows, collate = made(backbone, kind)
    goal, gradients = learnt(model, rows, collate)
    names, shapes = anatomy(model).block_modules, []
    with opened(model, rows, collate) as (serves, says):
        assert serves, says
        handle = entering(model.get_submodule(names[-1]), shapes)
        loss, found = learnt(model, rows, collate)
        handle.remove()
    assert shapes == [(1, rows.lengths.sum(), model.config.hidden_size)]
    assert abs(float(loss - goal)) < 1e-5
    assert found.keys() == gradients.keys() and len(found) > 10
    assert max(float((found[name] - its).abs().max()) for name, its in gradients.items()) < 1e-5
    again, _ = learnt(model, rows, collate)
    assert torch.equal(again, goal)
    assert model.config._attn_implementation == "sdpa"


def test_a_batch_that_is_nearly_full_stays_padded(backbone):
    model, rows, collate = made(backbone, "bert")
    order = rows.lengths.argsort()
    near = next(i for i in range(4, 9) if 0 < rows.lengths[order[i + 1]] - rows.lengths[order[i]] < 4)
    shapes: list[tuple[int, ...]] = []
    even, uneven = ([rows[int(i)] for i in order[which]] for which in ([near, near + 1], [0, -1]))
    with opened(model, rows, collate, "auto") as (serves, _):
        assert serves
        handle = entering(model.get_submodule(anatomy(model).block_modules[0]), shapes)
        for some in (even, uneven):
            model(**collate(some))
        handle.remove()
    fill = [
        sum(len(row["input_ids"]) for row in its) / 2 / max(len(row["input_ids"]) for row in its)
        for its in (even, uneven)
    ]
    assert fill[1] < FULLEST["auto"] <= fill[0] < 1
    assert shapes[0][0] == 2 and shapes[1][0] == 1


@pytest.mark.parametrize(
    ("mask", "why"),
    [
        ([[1, 1, 1], [1, 1, 1]], "nothing is padded"),
        ([[0, 1, 1], [1, 1, 1]], "padded at the beginning"),
        ([[1, 0, 1], [1, 1, 1]], "a hole"),
    ],
)
def test_what_is_not_padded_at_the_end_stays_as_it_is(mask, why):
    assert Packed.of(torch.tensor(mask), 1.0) is None, why


def test_packing_and_unpacking():
    mask = torch.tensor([[1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0]])
    packed = Packed.of(mask, 1.0)
    values = torch.arange(24.0).reshape(4, 6, 1).requires_grad_()
    tokens = packed.pack(values)
    # The longest first; texts of at least 0.6 of its length are padded with it.
    assert tokens.flatten().tolist() == [*range(6, 12), *range(18, 23), 0, 1]
    assert [(group.rows.tolist(), group.length) for group in packed.groups] == [([1, 3], 6), ([0], 2)]
    assert torch.equal(packed.unpack(tokens)[..., 0], values[..., 0] * mask)
    (packed.unpack(tokens) * 2).sum().backward()
    assert torch.equal(values.grad[..., 0], 2.0 * mask)


def test_others_see_rows_of_one_length(backbone):
    """Who listens to a block, before or after it is unpadded, and a cache that keeps what blocks answer."""
    model, rows, collate = made(backbone, "bert")
    batch = {name: its for name, its in collate(list(rows)).items() if name != "labels"}
    form = batch["input_ids"].shape
    names, seen = anatomy(model).block_modules, []
    catch = lambda _, __, output: seen.append(tuple(output.shape[:2]))  # noqa: E731
    handles = [model.get_submodule(names[0]).register_forward_hook(catch)]
    with opened(model, rows, collate) as (serves, _):
        assert serves
        seen.clear()
        handles.append(model.get_submodule(names[1]).register_forward_hook(catch))
        model(**batch)
        states = model(**batch, output_hidden_states=True).hidden_states
    for handle in handles:
        handle.remove()
    assert seen == [form] * 4
    goal = model(**batch, output_hidden_states=True).hidden_states
    here = batch["attention_mask"].bool()
    assert all(torch.allclose(a[here], b[here], atol=1e-5) for a, b in zip(states, goal, strict=True))


def test_with_a_cache_the_blocks_above_it_compute_tokens(backbone):
    model, rows, collate = made(backbone, "bert")
    names = anatomy(model).block_modules
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(("bert.embeddings", names[0])))
    batches = [{n: t for n, t in collate(its).items() if n != "labels"} for its in (list(rows), list(rows)[1:4])]
    prefix = below.find(model, batches, ["logits"])
    goal, shapes = model(**batches[0]).logits, []
    with opened(model, rows, collate) as (serves, _):
        assert serves
        handle = entering(model.get_submodule(names[1]), shapes)
        with prefix.capturing() as kept:
            filled = model(**batches[0]).logits
        with prefix.replaying(kept, *batches[0]["input_ids"].shape):
            served = model(**batches[0]).logits
        handle.remove()
    assert names[0] in prefix.modules
    assert all(
        tensor.shape[:2] == batches[0]["input_ids"].shape for (name, *_), tensor in kept.items() if name == names[0]
    )
    assert [shape[0] for shape in shapes] == [1, 1]
    assert torch.allclose(filled, goal, atol=1e-6) and torch.allclose(served, goal, atol=1e-6)


def test_blocks_of_which_a_part_is_kept_stay_padded(backbone):
    model, rows, collate = made(backbone, "bert")
    names = anatomy(model).block_modules
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(("bert.embeddings", f"{names[0]}.attention.self")))
    batches = [{n: t for n, t in collate(its).items() if n != "labels"} for its in (list(rows), list(rows)[1:4])]
    prefix = below.find(model, batches, ["logits"])
    assert any(name.startswith(f"{names[0]}.") for name in prefix.modules)
    shapes: list[tuple[int, ...]] = []
    with opened(model, rows, collate) as (serves, _):
        assert serves
        handles = [entering(model.get_submodule(name), shapes) for name in names]
        model(**batches[0])
        for handle in handles:
            handle.remove()
    assert [shape[0] for shape in shapes] == [len(rows), 1]


class Mixing(nn.Module):
    """A block that also looks along its rows, other than by attention."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.block = block

    def forward(self, states, *args, **kwargs):
        return self.block(states, *args, **kwargs) + states.mean(1, keepdim=True)


@pytest.mark.parametrize(
    ("kind", "wrap", "says"),
    [
        ("deberta-v2", None, "the attention is not SDPA"),
        ("bert", Mixing, "answers are others without padding"),
    ],
)
def test_where_it_would_not_be_exact_it_is_not_done(kind, wrap, says, backbone):
    model, rows, collate = made(backbone, kind)
    if wrap:
        model.bert.encoder.layer[1] = wrap(model.bert.encoder.layer[1])
    goal, _ = learnt(model, rows, collate)
    with opened(model, rows, collate) as found:
        loss, _ = learnt(model, rows, collate)
    assert found == (False, says)
    assert torch.equal(loss, goal)
    assert not model._forward_pre_hooks


def test_texts_of_one_length_have_nothing_to_take_out(backbone):
    model, rows, collate = made(backbone, "bert")
    same = Rows(rows.table.select([2, 2, 2]), rows.lengths[[2, 2, 2]])
    with opened(model, same, collate) as found:
        pass
    assert found == (False, "all texts are of one length")


def test_a_copy_of_the_model_pads(backbone):
    model, rows, collate = made(backbone, "bert")
    batch = collate(list(rows))
    goal = model(**batch).logits
    with opened(model, rows, collate) as (serves, _):
        assert serves
        other, shapes = copy.deepcopy(model), []
        entering(other.bert.encoder.layer[0], shapes)
        answers = other(**batch).logits
    assert shapes == [(*batch["input_ids"].shape, model.config.hidden_size)]
    assert torch.allclose(answers, goal, atol=1e-6)
    assert torch.allclose(other(**batch).logits, goal, atol=1e-6)


@pytest.mark.parametrize("name", ["fsdp", "deepspeed", "torch_compile", "activation_checkpointing"])
def test_what_it_stands_aside_for(name):
    assert not refusal("auto", {})
    assert refusal("auto", {name: True})
    assert refusal("off", {}) == "the recipe says so"


ADAPT = {
    "full": "full",
    "lower": {"method": "surgical", "blocks": "0:1"},
}


@pytest.fixture(scope="module", params=ADAPT)
def runs(request, dry, few, tmp_path_factory):
    """Finished runs without padding in the blocks, and with it."""
    folder, made = tmp_path_factory.mktemp("runs"), []
    for use in ("on", "off"):
        recipe = values(dry, few, ADAPT[request.param], train_sampling_strategy="random", per_device_train_batch_size=4)
        recipe["model"] = {"name": recipe["model"], "unpad": use}
        recipe["cache"] = "on"
        made.append(hfadapt.adapt(hfadapt.plan(Recipe(**recipe)), folder / use).path)
    return made


def test_a_run_learns_the_same(runs):
    told = [events(run, "unpad") for run in runs]
    assert [event["serves"] for its in told for event in its] == [True, False]
    losses = [[event["loss"] for event in events(run, "trained")] for run in runs]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5) and len(losses[0]) == 8
    assert distance(*map(weights, runs)) < 1e-5
    config = json.loads((Path(runs[0]) / "model" / "config.json").read_text())
    assert not [key for key in config if "attn" in key]
