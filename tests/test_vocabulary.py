"""Only embeddings of tokens in the training texts train: the same weights, answers and states for less."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

import hfadapt
from hfadapt.noise import quiet
from hfadapt.recipe import Recipe
from hfadapt.training import vocabulary
from hfadapt.training.vocabulary import UsedRows, only_used, refusal, used_by

KINDS = ("albert", "bert", "deberta-v2", "distilbert", "electra", "gpt2", "llama", "modernbert", "roberta")
USED = np.array([0, 1, 2, 3, 6, 9, 11, 20])
every_kind = pytest.mark.parametrize("kind", KINDS)


def model_of(folder: Path, auto: Any = AutoModelForSequenceClassification) -> Any:
    with quiet():
        model = auto.from_pretrained(folder)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = 0
    return model.eval()


def batch_of(ids: np.ndarray) -> dict[str, Tensor]:
    draw = np.random.default_rng(0)
    rows = torch.from_numpy(draw.choice(ids[1:], (4, 7)))
    mask = torch.ones_like(rows)
    mask[1, 4:] = 0
    rows[1, 4:] = int(ids[1])
    return {"input_ids": rows, "attention_mask": mask}


def trained(model: Any, decay: float = 0.0, steps: int = 3) -> torch.optim.Optimizer:
    """A few steps of AdamW, without dropout."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01, weight_decay=decay)
    for _ in range(steps):
        model(**batch_of(USED)).logits.square().sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    return optimizer


def table(model: Any) -> Tensor:
    return model.get_input_embeddings().weight.detach()


def words_of(model: Any) -> str:
    """The name of the embeddings' parameter."""
    (name,) = [n for n, p in model.named_parameters() if p is model.get_input_embeddings().weight]
    return name


@every_kind
def test_weights_are_those_of_training_all_rows(backbone: Any, kind: str) -> None:
    torch.manual_seed(0)
    model = model_of(backbone(kind))
    whole, decayed, began = copy.deepcopy(model), copy.deepcopy(model), table(model).clone()
    trained(whole)
    trained(decayed, decay=0.5)
    for decay, expected in ((0.0, whole), (0.5, decayed)):
        found = copy.deepcopy(model)
        with only_used(found, USED) as (train, of):
            assert 0 < train < of == len(began)
            assert isinstance(found.get_input_embeddings(), UsedRows)
            trained(found, decay)
        assert type(found.get_input_embeddings()) is nn.Embedding
        named = sorted({*USED.tolist(), *([p] if (p := found.get_input_embeddings().padding_idx) is not None else [])})
        others = sorted(set(range(len(began))) - set(named))
        for (name, one), (_, other) in zip(found.state_dict().items(), expected.state_dict().items(), strict=True):
            rows = named if name == words_of(found) else slice(None)
            torch.testing.assert_close(one[rows], other[rows], rtol=1e-6, atol=1e-6, msg=name)
        assert torch.equal(table(found)[others], began[others])
        assert not torch.equal(table(found)[named], began[named])
        # Weight decay alone would have moved them.
        assert torch.equal(table(expected)[others], began[others]) == (decay == 0)


@every_kind
def test_answers_and_states_are_those_of_the_whole(backbone: Any, kind: str) -> None:
    model = model_of(backbone(kind))
    anything = batch_of(np.arange(len(table(model))))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    names = [name for name, _ in model.named_parameters()]
    with torch.no_grad():
        expected = model(**anything).logits
    with only_used(model, USED), torch.no_grad():
        assert torch.equal(model(**anything).logits, expected)
        assert [name for name, _ in model.named_parameters()] == names
        inside = model.state_dict()
        assert inside.keys() == state.keys() and all(torch.equal(inside[n], state[n]) for n in state)
        for parameter in model.parameters():
            parameter.add_(1.0)
        assert not torch.equal(model(**anything).logits, expected)
        words = words_of(model)
        model.load_state_dict({**state, words: state[words] + 1})
        assert torch.equal(model.state_dict()[words], state[words] + 1)
        assert model.load_state_dict(state).missing_keys == []
        assert torch.equal(model(**anything).logits, expected)
    assert all(torch.equal(tensor, state[n]) for n, tensor in model.state_dict().items())


def test_gradients_and_moments_are_of_the_named_rows_only(backbone: Any) -> None:
    model = model_of(backbone("bert"))
    with only_used(model, USED):
        parameter = model.get_input_embeddings().weight
        optimizer = trained(model)
        assert optimizer.state[parameter]["exp_avg"].shape == parameter.shape == (len(USED), table(model).shape[1])


def test_who_looks_what_moves_sees_that_embeddings_do(backbone: Any) -> None:
    """The cache asks in eval mode which outputs require a gradient, of any rows."""
    model = model_of(backbone("bert"))
    with only_used(model, USED):
        ids = torch.arange(len(model.get_input_embeddings().table))
        given = model.get_input_embeddings()(ids)
        assert given.requires_grad and torch.equal(given, model.get_input_embeddings().table)
        with torch.no_grad():
            assert not model.get_input_embeddings()(ids).requires_grad


def test_a_token_that_nobody_named_is_no_other_one(backbone: Any) -> None:
    """Rather an error than a gradient for a wrong row."""
    model = model_of(backbone("bert"))
    with only_used(model, USED):
        model.train()
        with pytest.raises(IndexError):
            model(input_ids=torch.tensor([[2, 19, 3]]))


def test_it_stands_aside(backbone: Any) -> None:
    tied = model_of(backbone("bert", "AutoModelForMaskedLM"), AutoModelForMaskedLM)
    frozen = model_of(backbone("bert"))
    frozen.get_input_embeddings().weight.requires_grad_(False)
    normed = model_of(backbone("bert"))
    normed.get_input_embeddings().max_norm = 1.0
    all_named = np.arange(len(table(frozen)))
    for model, named in ((tied, USED), (frozen, USED), (normed, USED), (model_of(backbone("bert")), all_named)):
        with only_used(model, named) as found:
            assert found == (0, 0) and type(model.get_input_embeddings()) is nn.Embedding


@pytest.mark.parametrize(
    ("settled", "watched", "says"),
    [
        ({}, False, ""),
        ({"optim": "sgd"}, False, ""),
        ({"optim": "adafactor"}, False, "as a whole"),
        ({"fsdp": True}, False, "divided"),
        ({"deepspeed": "x.json"}, False, "divided"),
        ({"torch_compile": True}, False, "compiled"),
        ({}, True, "looks at the parameters"),
    ],
)
def test_why_it_stands_aside(settled: dict[str, Any], watched: bool, says: str) -> None:
    found = refusal(settled, watched=watched)
    assert says in found and bool(found) == bool(says)


def test_tokens_are_counted_whatever_a_row_holds() -> None:
    from datasets import Dataset

    rows = Dataset.from_dict({"input_ids": [[5, 9, 5], [], [7]], "labels": [0, 1, 0]})
    assert used_by(rows, [0, 9]).tolist() == [0, 5, 7, 9]
    assert used_by(rows.select([2]), []).tolist() == [7]


@pytest.fixture
def recipe(backbone: Any, few: Path) -> Any:
    def made(method: str, **train: Any) -> Recipe:
        return Recipe(
            task="text-classification",
            model=str(backbone("bert")),
            data={"path": str(few), "text": "text", "label": "label"},
            adapt=method,
            train={"max_steps": 4, "learning_rate": 1e-2, "per_device_train_batch_size": 8, **train},
        )

    return made


def logged(run: Any) -> list[dict[str, Any]]:
    events = map(json.loads, (run.path / "log.jsonl").read_text(encoding="utf-8").splitlines())
    return [event for event in events if event["event"] == "vocabulary"]


@pytest.mark.parametrize(
    ("method", "stages"), [("full", 1), ("linear-probe", 0), ("lp-ft", 1), ("gradual", 1), ("ema", 0)]
)
def test_a_run_ends_with_the_weights_of_training_all_rows(recipe, tmp_path, monkeypatch, method, stages) -> None:
    run = hfadapt.adapt(hfadapt.plan(recipe(method, weight_decay=0.0)), tmp_path / "less")
    events = logged(run)
    assert sum(event["serves"] for event in events) == stages and len(events) == len(
        hfadapt.plan(recipe(method)).stages
    )
    assert all(("occur in training rows" in event["says"]) == event["serves"] for event in events)
    card = (run.path / "README.md").read_text(encoding="utf-8")
    told = [f" Of its embeddings of tokens, {event['says']}; the others" for event in events if event["serves"]]
    assert ("Of its embeddings" in card) == bool(told) and all(sentence in card for sentence in told)
    monkeypatch.setattr(vocabulary, "refusal", lambda *_, **__: "the test says so")
    whole = hfadapt.adapt(hfadapt.plan(recipe(method, weight_decay=0.0)), tmp_path / "whole")
    assert not any(event["serves"] for event in logged(whole))
    one, other = (model_of(its.model).state_dict() for its in (run, whole))
    for name, tensor in other.items():
        torch.testing.assert_close(one[name], tensor, rtol=0, atol=2e-6, msg=name)
