"""The tasks on pictures: losses, mixed targets, templates, and what pictures and texts are encoded to."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.nn import functional

from hfadapt.data.labels import Labels
from hfadapt.kind import IGNORED
from hfadapt.recipe import Recipe
from hfadapt.tasks.image_text_contrastive import HIGHEST_SCALE

THREE = Labels("label", ("a", "b", "c"))
MANY = Labels("labels", ("a", "b", "c"))


def task(name: str = "image-classification", **options):
    return Recipe(task={"type": name, **options}, model="m", data={"path": "p"}).task


PAIRS = task("image-text-contrastive")


def embeddings(rows: int, seed: int = 0, bias: bool = False) -> dict[str, torch.Tensor]:
    """What the contrastive task reads of a model, each a leaf whose gradient is asked for."""
    draw = torch.Generator().manual_seed(seed)
    made = {
        n: functional.normalize(torch.randn(rows, 5, generator=draw), dim=-1) for n in ("image_embeds", "text_embeds")
    }
    made["logit_scale"] = torch.tensor(1.3)
    if bias:
        made["logit_bias"] = torch.tensor(-0.7)
    return {name: tensor.clone().requires_grad_() for name, tensor in made.items()}


def ids(*pairs: tuple[int, int]) -> torch.Tensor:
    return torch.tensor(pairs)


def pair_losses(found, targets, whole=None) -> torch.Tensor:
    return PAIRS.losses(found, targets, "pairs", whole=whole)


# The contrast of pictures and texts


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_the_contrast_is_the_models_own_loss(kind, backbone):
    """Where no picture and no text comes twice, on real towers, and with the gradient of every parameter."""
    import transformers

    model = getattr(transformers, {"clip": "CLIPModel", "siglip": "SiglipModel"}[kind]).from_pretrained(backbone(kind))
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randn(5, 3, 32, 32, generator=draw)
    tokens = torch.randint(5, 200, (5, 64 if kind == "siglip" else 9), generator=draw)
    outputs = model.eval()(input_ids=tokens, pixel_values=pixels, return_loss=True)
    outputs.loss.backward(retain_graph=True)
    theirs = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    found = {name: outputs[name] for name in PAIRS.reads} | {
        name: getattr(model, name) for name in PAIRS.parameters if hasattr(model, name)
    }
    targets = torch.arange(10).reshape(5, 2)
    loss = pair_losses(found, targets).sum() / targets.numel()
    assert loss.item() == pytest.approx(outputs.loss.item(), rel=1e-5) and loss > 0.1
    loss.backward()
    assert {"logit_scale"} <= theirs.keys() and ("logit_bias" in theirs) == (kind == "siglip")
    for name, gradient in theirs.items():
        assert torch.allclose(model.get_parameter(name).grad, gradient, atol=1e-5, rtol=1e-3), name


@pytest.mark.parametrize("bias", [False, True], ids=["clip", "siglip"])
@pytest.mark.parametrize("same", [0, 1], ids=["picture", "caption"])
def test_rows_with_the_same_picture_or_caption_are_no_negatives(same, bias):
    """Rows 0 and 2 share one: neither what the one says of the other, nor its gradient, is in their losses."""
    targets = ids((0, 10), (1, 11), (2, 12))
    targets[2, same] = targets[0, same]
    found = embeddings(3, bias=bias)
    losses = pair_losses(found, targets)
    alone = {name: tensor if tensor.ndim == 0 else tensor[[0, 1]] for name, tensor in found.items()}
    assert torch.allclose(losses[0], pair_losses(alone, targets[:2])[0])
    assert not torch.allclose(losses[1], pair_losses(alone, targets[:2])[1]), "row 1 has both as negatives"
    losses[0].sum().backward()
    for name in PAIRS.reads:
        assert (found[name].grad[2] == 0).all() and (found[name].grad[1] != 0).any()


@pytest.mark.parametrize("bias", [False, True], ids=["clip", "siglip"])
def test_a_ghost_is_neither_a_row_nor_a_negative(bias):
    found = embeddings(4, bias=bias)
    targets = ids((0, 10), (1, 11), (2, 12), (IGNORED, IGNORED))
    losses = pair_losses(found, targets)
    real = {name: tensor if tensor.ndim == 0 else tensor[:3] for name, tensor in found.items()}
    assert (losses[3] == 0).all() and torch.allclose(losses[:3], pair_losses(real, targets[:3]))
    losses.sum().backward()
    for name in PAIRS.reads:
        assert (found[name].grad[3] == 0).all() and torch.isfinite(found[name].grad).all()
    everyone = ids(*[(IGNORED, IGNORED)] * 4)
    assert (pair_losses(found, everyone) == 0).all()


@pytest.mark.parametrize("bias", [False, True], ids=["clip", "siglip"])
def test_two_processes_together_have_the_loss_of_the_whole_batch(bias):
    """Each computes its half against what was gathered; what they owe to a row is summed over both."""
    targets = ids((0, 10), (1, 11), (2, 10), (3, 13), (1, 14), (IGNORED, IGNORED))
    one = embeddings(6, bias=bias)
    wanted = pair_losses(one, targets)
    wanted.sum().backward()
    sums = {name: torch.zeros_like(tensor) for name, tensor in one.items()}
    for half in (slice(0, 3), slice(3, 6)):
        mine = embeddings(6, bias=bias)
        found = {name: tensor if tensor.ndim == 0 else tensor[half] for name, tensor in mine.items()}
        whole = {name: mine[name] for name in PAIRS.reads}, targets
        losses = pair_losses(found, targets[half], whole)
        assert torch.allclose(losses, wanted[half])
        losses.sum().backward()
        for name, tensor in mine.items():
            sums[name] += tensor.grad
    for name, tensor in one.items():
        assert torch.allclose(sums[name], tensor.grad, atol=1e-5), name


def test_losses_of_halves_without_the_whole_are_others():
    """What the test above would not see if `whole` were left unread."""
    targets, found = torch.arange(8).reshape(4, 2), embeddings(4)
    half = {name: tensor if tensor.ndim == 0 else tensor[:2] for name, tensor in found.items()}
    assert not torch.allclose(pair_losses(half, targets[:2]), pair_losses(found, targets)[:2])


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_the_scale_is_clamped_for_clip_alone(kind, backbone):
    from transformers import AutoModel

    model = AutoModel.from_pretrained(backbone(kind))
    for value in (9.0, 1.5):
        with torch.no_grad():
            model.logit_scale.fill_(value)
        PAIRS.constrain(model)
        clamped = kind == "clip" and value > HIGHEST_SCALE
        assert model.logit_scale.item() == pytest.approx(math.log(100) if clamped else value)
    assert model.logit_scale.requires_grad


def test_answers_are_cosines():
    found = {"image_embeds": np.array([[1.0, 0], [0.6, 0.8]]), "text_embeds": np.array([[0.0, 1], [0.6, 0.8]])}
    assert PAIRS.answers(found, Labels("pairs", ())) == [{"similarity": 0.0}, {"similarity": pytest.approx(1.0)}]


# Shares of labels


shares_of = st.lists(st.integers(1, 9), min_size=3, max_size=3).map(lambda parts: [p / sum(parts) for p in parts])
rows_of = st.lists(shares_of, min_size=1, max_size=6)


def mean_loss(name, logits, targets, weights=None, smoothing=0.0, **options) -> torch.Tensor:
    """As `ExactLoss` takes it: the sum over the items by their number."""
    losses = task(name, **options).losses({"logits": logits}, targets, "label", weights, smoothing)
    assert losses.shape == targets.shape
    return losses.sum() / targets.numel()


@settings(deadline=None, max_examples=40)
@given(rows_of, st.floats(0, 0.9), st.integers(0, 99))
def test_the_loss_of_shares_is_cross_entropy_with_probabilities(rows, smoothing, seed):
    shares = torch.tensor(rows)
    logits = torch.randn(len(rows), 3, generator=torch.Generator().manual_seed(seed))
    wanted = functional.cross_entropy(logits, shares, label_smoothing=smoothing)
    assert torch.allclose(mean_loss("image-classification", logits, shares, None, smoothing), wanted, rtol=1e-4)
    weights = torch.tensor([0.5, 1.0, 3.0])
    weighted = functional.cross_entropy(logits, shares, weights, reduction="none").mean()
    assert torch.allclose(mean_loss("image-classification", logits, shares, weights), weighted, rtol=1e-4)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=6),
    st.floats(0, 0.9),
    st.sampled_from([0.0, 0.5, 2.0]),
    st.booleans(),
    shares_of,
)
def test_a_mixed_row_has_the_mean_of_the_losses_of_what_it_is_mixed_of(labels, smoothing, focal, weighted, share):
    """With smoothing, class weights and focal loss: a row of one label alone is as if it had not been mixed."""
    targets = torch.tensor(labels)
    logits = torch.randn(len(labels), 3, generator=torch.Generator().manual_seed(len(labels)))
    weights = torch.tensor([0.5, 1.0, 3.0]) if weighted else None
    options = {"loss": {"focal": focal}}
    hot = functional.one_hot(targets, 3).float()
    alone = mean_loss("image-classification", logits, targets, weights, smoothing, **options)
    assert torch.allclose(
        mean_loss("image-classification", logits, hot, weights, smoothing, **options), alone, rtol=1e-4, atol=1e-6
    )
    mixed = torch.tensor([share] * len(labels))
    each = [
        mean_loss("image-classification", logits, torch.full_like(targets, i), weights, smoothing, **options)
        for i in range(3)
    ]
    wanted = sum(part * loss for part, loss in zip(share, each, strict=True))
    found = mean_loss("image-classification", logits, mixed, weights, smoothing, **options)
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_shares_that_are_ignored_count_for_nothing():
    logits = torch.randn(3, 3, requires_grad=True)
    shares = torch.tensor([[0.2, 0.8, 0.0], [IGNORED] * 3, [1.0, 0.0, 0.0]])
    losses = task(loss={"focal": 1.0}).losses({"logits": logits}, shares, "label", torch.ones(3), 0.1)
    losses.sum().backward()
    assert (losses[1] == 0).all() and (logits.grad[1] == 0).all() and (logits.grad[[0, 2]] != 0).all()


@pytest.mark.parametrize("labels", [THREE, MANY], ids=["label", "labels"])
def test_mixing_keeps_the_shares(labels):
    """Mixup of a black and a white picture is as white as the share of the white one's label."""
    targets = (0, 2) if labels is THREE else ([1.0, 1.0, 0.0], [0.0, 1.0, 1.0])
    black, white = (
        {"pixel_values": np.full((3, 8, 8), value, np.float32), "labels": target}
        for value, target in zip((0, 1), targets, strict=True)
    )
    for kind in ("mixup", "cutmix"):
        ours, seen = task(augment={kind: 1.0}), set()
        assert ours.mixes and not ours.varies
        for seed in range(8):
            (row,) = ours.mix([dict(black)], [dict(white)], [np.random.default_rng(seed)], labels)
            assert row["pixel_values"].dtype == row["labels"].dtype == np.float32
            assert row["pixel_values"].mean() == pytest.approx(row["labels"][2], abs=1e-5)
            assert row["labels"][0] + row["labels"][2] == pytest.approx(1)
            assert row["labels"][1] == (0 if labels is THREE else 1)
            seen.add(round(float(row["labels"][2]), 3))
        assert len(seen) > 4
    assert (black["pixel_values"] == 0).all() and black["labels"] is targets[0], "the row itself stays as it is"


def test_with_both_either_is_drawn():
    ours, rows = task(augment={"mixup": 1.0, "cutmix": 1.0}), []
    for seed in range(20):
        black = {"pixel_values": np.zeros((3, 8, 8), np.float32), "labels": 0}
        white = {"pixel_values": np.ones((3, 8, 8), np.float32), "labels": 1}
        rows += ours.mix([black], [white], [np.random.default_rng(seed)], THREE)
    cut = [set(np.unique(row["pixel_values"])) <= {0.0, 1.0} for row in rows]
    assert 4 < sum(cut) < 16


# Several labels a picture


def test_pictures_with_several_labels():
    logits = torch.randn(4, 3)
    hot = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 1]]).float()
    found = task().losses({"logits": logits}, hot, "labels")
    assert torch.allclose(found.mean(), functional.binary_cross_entropy_with_logits(logits, hot))
    assert task().kind([["a"], []], None) == "labels" and task().kind(["a"], None) == "label"
    (answer,) = task().answers({"logits": np.array([[2.0, -2.0, 3.0]])}, MANY)
    assert answer["labels"] == ["a", "c"]


# Options


@pytest.mark.parametrize(
    "template", ["a photo", "{} and {}", "a {name}", "a {0}", "{}}", "a {{}}", ""], ids=lambda text: text or "empty"
)
@pytest.mark.parametrize("name", ["image-classification", "image-text-contrastive"])
def test_a_template_has_one_place_for_the_name(name, template):
    with pytest.raises(ValidationError, match=r"it needs '\{\}', once, where the name goes"):
        task(name, templates=["a photo of a {}.", template])
    assert task(name, templates=["{}", "100% {}!"]).templates == ["{}", "100% {}!"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"augment": {"rand_augment": 9, "trivial_augment": True}}, "not both"),
        ({"augment": {"crop": 0}}, "greater than 0"),
        ({"augment": {"rotate": 200}}, "less than or equal to 180"),
        ({"templates": []}, "at least 1"),
        ({"problem_type": "regression"}, "not offered"),
    ],
)
def test_options_that_are_refused(options, says):
    with pytest.raises(ValidationError, match=says):
        task(**options)


@pytest.mark.parametrize(
    ("augment", "varies", "mixes"),
    [({}, False, False), ({"flip": "both"}, True, False), ({"mixup": 0.2}, False, True)],
)
def test_whether_rows_vary_or_mix(augment, varies, mixes):
    ours = task(augment=augment)
    assert (ours.varies, ours.mixes) == (varies, mixes)
    if mixes:
        with pytest.raises(ValidationError, match="not mixed"):
            task("image-text-contrastive", augment=augment)
    else:
        assert task("image-text-contrastive", augment=augment).varies == varies


# What is encoded


def processor_of(ours, path):
    from hfadapt.backbones._source import load_config, locate

    source = locate(str(path))
    return ours.processor(source, load_config(source))


LONG = "two hours late and nobody said why " * 20


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_long_texts_are_cut_and_only_siglips_are_padded_to_the_full_length(kind, backbone):
    from PIL import Image

    limit = 12 if kind == "clip" else 64
    ours = task("image-text-contrastive", **({"max_length": 12} if kind == "clip" else {}))
    processor = processor_of(ours, backbone(kind))
    rows = {"image": [Image.new("RGB", (40, 20)), Image.new("RGB", (9, 90))], "text": ["soup", LONG + LONG]}
    assert ours.limit(processor) == limit and ours.lengths(rows, processor)[1] > 64
    encoded = ours.encode(rows, processor)
    lengths = [len(tokens) for tokens in encoded["input_ids"]]
    assert lengths[1] == limit and (lengths[0] == limit) == (kind == "siglip")
    assert ("attention_mask" in encoded) == (kind == "clip")
    assert len(set(encoded["input_ids"][1])) > 5, "a tokenizer that knows no word would make every test pass"
    together = [dict(zip(encoded, values, strict=True)) for values in zip(*encoded.values(), strict=True)]
    batch = ours.collator(processor)([row | {"labels": [i, i]} for i, row in enumerate(together)])
    assert batch["pixel_values"].shape == (2, 3, 32, 32) and batch["labels"].tolist() == [[0, 0], [1, 1]]
    assert batch["input_ids"].shape == (2, limit)
    short = ours.collator(processor)([row | {"labels": [0, 0]} for row in together[:1]])
    assert short["input_ids"].shape[1] == lengths[0]


def test_another_length_of_a_siglips_texts_is_refused(backbone):
    """It reads the last place of a text, and the pipeline pads to its own length."""
    from hfadapt.errors import HfadaptError

    with pytest.raises(HfadaptError, match="have one length, 64 tokens"):
        processor_of(task("image-text-contrastive", max_length=12), backbone("siglip"))


def test_the_limit_is_the_backbones_unless_a_shorter_one_is_asked_for(backbone):
    from hfadapt.errors import HfadaptError

    assert PAIRS.limit(processor_of(PAIRS, backbone("clip"))) == 64
    with pytest.raises(HfadaptError, match="100 is more than the 64 tokens"):
        processor_of(task("image-text-contrastive", max_length=100), backbone("clip"))


def test_a_picture_of_any_shape_is_encoded_as_its_processor_says(backbone, pictures):
    """Paths, open pictures, one of 3 rows of pixels (no channel order to mistake), and grey ones."""
    from PIL import Image

    ours = task()
    processor = processor_of(ours, backbone("vit"))
    path = pictures / "train/round/0.png"
    flat = Image.new("RGB", (3, 3), (255, 0, 0))
    grey = {"bytes": None, "path": str(path)}
    encoded = ours.encode({"image": [grey, Image.open(path).convert("RGB"), flat]}, processor)["pixel_values"]
    assert [pixels.shape for pixels in encoded] == [(3, 32, 32)] * 3
    assert (encoded[0] == encoded[1]).all() and encoded[0].dtype == np.float32
    assert encoded[2][0].min() > encoded[2][1].max(), "red is the first channel"
    assert np.asarray(encoded[2]).std(axis=(1, 2)).max() < 1e-6


def test_a_picture_that_is_gone_is_told_by_its_name(backbone, tmp_path):
    from hfadapt.errors import DataError

    ours = task()
    with pytest.raises(DataError, match=r"gone\.png"):
        ours.encode(
            {"image": [{"bytes": None, "path": str(tmp_path / "gone.png")}]}, processor_of(ours, backbone("vit"))
        )


def test_a_processor_of_one_tower_is_refused(backbone):
    from hfadapt.errors import HfadaptError

    for kind in ("vit", "bert"):
        with pytest.raises(HfadaptError, match="no processor for pictures and texts"):
            processor_of(PAIRS, backbone(kind))
    with pytest.raises(HfadaptError, match="no image processor"):
        processor_of(task(), backbone("bert"))


def test_the_names_in_the_schema_are_those_of_the_sections():
    """A picture task's options stand in the JSON Schema under their names."""
    from hfadapt.recipe import schema

    text = json.dumps(schema())
    assert all(f'"{name}"' in text for name in ("augment", "templates", "zero-shot", "trivial_augment"))


# Captions made of class names


def test_templates_are_drawn_around_the_name_of_a_row(tmp_path):
    """Whatever the pictures are changed by; the same draw gives the same text."""
    from types import SimpleNamespace

    from PIL import Image

    plain = task("image-text-contrastive", templates=["a {}.", "{} it is", "the {}"])
    ours = plain.settled(SimpleNamespace(prompted=True, new=()))
    given = plain.settled(SimpleNamespace(prompted=False, new=()))
    rows = {"image": [Image.new("RGB", (8, 8))] * 40, "text": [f"a cat {i}." for i in range(40)]}
    draws = [[np.random.default_rng([seed]) for seed in range(40)] for _ in range(3)]
    drawn = ours.vary(rows, None, draws[0])
    assert drawn["image"] is rows["image"] and not ours.augments
    for i, text in enumerate(drawn["text"]):
        assert text in {f"a cat {i}.", f"cat {i} it is", f"the cat {i}"}
    starts = [text.split()[0] for text in drawn["text"]]
    assert all(5 < starts.count(word) < 25 for word in ("a", "cat", "the"))
    assert drawn["text"] == ours.vary(rows, None, draws[1])["text"] and ours.varies and not given.varies
    assert given.vary(rows, None, draws[2])["text"] == rows["text"]
    assert not task("image-text-contrastive", captions="classes").settled(SimpleNamespace(prompted=True, new=())).varies


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("image-text-contrastive", {"captions": "made"}, "'given' or 'classes'"),
        ("image-text-contrastive", {"new_classes": 1.0}, "less than 1"),
        ("image-text-contrastive", {"new_classes": []}, "at least 1"),
        ("image-classification", {"shots": 4}, "goes with `head: tip-adapter` only"),
        ("image-classification", {"head": "tip-adapter", "shots": 0}, "greater than or equal to 1"),
    ],
)
def test_options_of_classes_that_are_refused(name, options, says):
    with pytest.raises(ValidationError, match=says):
        task(name, **options)
