"""Losses, probabilities, answers and encodings of the text tasks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from hfadapt.data.labels import Labels
from hfadapt.kind import IGNORED
from hfadapt.recipe import Recipe
from hfadapt.tasks.text_classification import TextClassification

TWO = Labels("label", ("bad", "good"))
MANY = Labels("labels", ("a", "b", "c"))
NUMBER = Labels("number")


def task(**options) -> TextClassification:
    values = {"type": "text-classification", **options}
    return Recipe(task=values, model="m", data={"path": "p"}).task


def test_plain_losses_are_torchs():
    logits, ids = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    assert torch.allclose(
        task().losses({"logits": logits}, ids, "label", None, 0.0).mean(), functional.cross_entropy(logits, ids)
    )
    smooth = functional.cross_entropy(logits, ids, label_smoothing=0.2)
    assert torch.allclose(task().losses({"logits": logits}, ids, "label", None, 0.2).mean(), smooth)
    hot = functional.one_hot(ids, 3).float()
    many = functional.binary_cross_entropy_with_logits(logits, hot)
    assert torch.allclose(task().losses({"logits": logits}, hot, "labels", None, 0.0).mean(), many)
    values = torch.randn(6)
    number = task().losses({"logits": logits[:, :1]}, values, "number", None, 0.0)
    assert torch.allclose(number.mean(), functional.mse_loss(logits[:, 0], values))


@pytest.mark.parametrize("kind", ["label", "labels", "number"])
def test_an_ignored_item_counts_for_nothing(kind):
    logits = torch.randn(4, 3 if kind != "number" else 1, requires_grad=True)
    targets = {"label": torch.tensor([0, 1, IGNORED, 2]), "number": torch.tensor([0.5, 1.0, IGNORED, 2.0])}.get(
        kind, torch.tensor([[0, 1, 0], [1, 1, 0], [IGNORED] * 3, [0, 0, 1]]).float()
    )
    weights = torch.tensor([1.0, 2.0, 3.0]) if kind != "number" else None
    losses = task(loss={"focal": 2.0}).losses({"logits": logits}, targets, kind, weights, 0.1)
    assert losses.shape == targets.shape
    assert (losses[2] == 0).all() and (losses[[0, 1, 3]] != 0).any(dim=-1).all() if losses.ndim > 1 else losses[2] == 0
    losses.sum().backward()
    assert (logits.grad[2] == 0).all() and (logits.grad[0] != 0).any()


def test_focal_loss_is_the_papers():
    logits, ids = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
    p = torch.sigmoid(torch.tensor(2.0))
    found = task(loss={"focal": 2.0}).losses({"logits": logits}, ids, "label", None, 0.0)
    assert torch.allclose(found, -((1 - p) ** 2) * p.log())


@given(st.lists(st.integers(0, 1), min_size=2, max_size=50).filter(lambda ids: len(set(ids)) == 2))
def test_weights_average_one_over_the_rows(ids):
    targets = np.array(ids)
    for option in ("balanced", {"good": 5.0}):
        weights = task(loss={"class_weights": option}).weights(targets, TWO)
        assert weights[targets].mean() == pytest.approx(1, rel=1e-5)
    balanced = task(loss={"class_weights": "balanced"}).weights(targets, TWO)
    totals = [balanced[i] * (targets == i).sum() for i in (0, 1)]
    assert totals[0] == pytest.approx(totals[1], rel=1e-5)


def test_no_weights_unless_asked_for():
    assert task().weights(np.array([0, 1]), TWO) is None


def test_probabilities():
    logits = np.array([[1000.0, 0.0, -1000.0]])
    assert np.allclose(task().predictions({"logits": logits}, "label"), [[1, 0, 0]])
    assert np.allclose(task().predictions({"logits": logits}, "labels"), [[1, 0.5, 0]])
    assert task().predictions({"logits": np.array([[2.5], [1.0]])}, "number").tolist() == [2.5, 1.0]


def test_answers():
    assert task().answers({"logits": np.array([[0.0, np.log(3)]])}, TWO) == [
        {"label": "good", "probability": pytest.approx(0.75)}
    ]
    (found,) = task().answers({"logits": np.array([[2.0, -2.0, 3.0]])}, MANY)
    assert found["labels"] == ["a", "c"] and set(found["probabilities"]) == {"a", "b", "c"}
    assert task().answers({"logits": np.array([[1.5]])}, NUMBER) == [{"value": 1.5}]


def test_the_kind_of_problem():
    assert task().kind(["x"], None) == "label"
    assert task().kind([["x"], []], None) == "labels"
    assert task().kind(["x|y"], "|") == "labels"
    assert task(problem_type="regression").kind([1.0], None) == "number"


def test_a_configuration_says_what_the_labels_are():
    from transformers import BertConfig

    for labels, problem, count in (
        (TWO, "single_label_classification", 2),
        (MANY, "multi_label_classification", 3),
        (NUMBER, "regression", 1),
    ):
        config = BertConfig()
        task().configure(config, labels)
        assert (config.problem_type, config.num_labels) == (problem, count)
    assert config.id2label == {0: "value"}


@pytest.mark.parametrize("kind", ["bert", "gpt2", "roberta"])
def test_texts_are_cut_padded_and_not_degenerate(kind, backbone):
    from hfadapt.backbones._source import load_config, locate

    source = locate(str(backbone(kind)))
    config = load_config(source)
    processor = task(max_length=8).processor(source, config)
    assert processor.pad_token_id is not None and config.pad_token_id == processor.pad_token_id
    rows = {"text": ["soup", "the staff smiled and the soup was hot " * 5]}
    encoded = task().encode(rows, processor)
    assert [len(ids) for ids in encoded["input_ids"]][1] == 8
    assert len(set(encoded["input_ids"][1])) > 4, "a tokenizer that knows no word would make every test pass"
    assert task().lengths(rows, processor)[1] > 20
    collate = task().collator(processor)
    batch = collate([{"input_ids": ids, "labels": 0} for ids in encoded["input_ids"]])
    assert batch["input_ids"].shape == (2, 8) and batch["labels"].tolist() == [0, 0]
    assert batch["attention_mask"].sum(1).tolist() == [len(ids) for ids in encoded["input_ids"]]


def test_a_collator_survives_pickling(backbone):
    import pickle

    from transformers import AutoTokenizer

    collate = pickle.loads(pickle.dumps(task().collator(AutoTokenizer.from_pretrained(backbone("bert")))))
    assert collate([{"input_ids": [1, 2], "labels": 1.5}])["labels"].tolist() == [1.5]
