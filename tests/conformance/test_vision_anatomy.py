"""Promises × families that see: what a method says moves, moves; what it leaves out stays as it was, bit for bit."""

from __future__ import annotations

import pytest

from hfadapt.backbones.base import anatomy
from hfadapt.noise import quiet

from .promises import FAMILIES, METHODS, OPTIONS, state, statistics

TRIED = ("full", "linear-probe", "partial", "lp-ft", "lora")
"""Methods whose gradients are looked at; full runs see what all of them move."""

SEEING = sorted(kind for f in FAMILIES if f.modality != "text" for kind in f.model_types)
PAIRED = sorted(kind for f in FAMILIES if f.modality == "image-text" for kind in f.model_types)
CASES = [(kind, task) for kind in SEEING for task in ("classify", "pair") if task == "classify" or kind in PAIRED]


def loaded(backbone, kind: str, task: str):
    """A fresh model and its anatomy."""
    import transformers

    name = "ImageClassification" if task == "classify" else "ZeroShotImageClassification"
    options = {"num_labels": 3} if task == "classify" else {}
    with quiet():
        auto = getattr(transformers, f"AutoModelFor{name}")
        model, found = auto.from_pretrained(backbone(kind), output_loading_info=True, **options)
    return model, anatomy(model, found["missing_keys"])


def inputs(model, task: str, seed: int = 0):
    """A batch of five random pictures, and of five random texts of 64 tokens."""
    import torch

    draw = torch.Generator().manual_seed(seed)
    batch = {"pixel_values": torch.randn(5, 3, 32, 32, generator=draw)}
    if task == "pair":
        ids = torch.randint(5, 200, (5, 64), generator=draw)
        ids[:, -1] = model.config.text_config.eos_token_id
        batch["input_ids"] = ids
    return batch


def loss(model, batch):
    """Of a classifier, cross-entropy; of pairs, SigLIP's, which has use for a bias."""
    import torch
    from torch.nn import functional

    outputs = model(**batch)
    if "input_ids" not in batch:
        return functional.cross_entropy(outputs.logits, torch.tensor([0, 1, 2, 0, 1]))
    return -functional.logsigmoid(outputs.logits_per_image * (2 * torch.eye(5) - 1)).sum()


def test_there_is_something_to_test():
    named = "vit deit dinov2 beit swin convnext resnet efficientnet mobilenet_v2 clip siglip"
    assert set(named.split()) <= set(SEEING)
    assert {"clip", "siglip"} <= set(PAIRED) < set(SEEING)
    assert set(TRIED) <= set(METHODS)


@pytest.mark.parametrize(("kind", "task"), CASES)
def test_what_gets_no_gradient_is_known_as_unused(kind, task, backbone):
    model, parts = loaded(backbone, kind, task)
    loss(model.train(), inputs(model, task)).backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert without == set(parts.unused)
    assert sorted([*parts.everything, *parts.unused]) == sorted(name for name, _ in model.named_parameters())
    assert {parts.part_of(name) for name in parts.unused} <= {"unused"}


@pytest.mark.parametrize("method", TRIED)
@pytest.mark.parametrize(("kind", "task"), CASES)
def test_what_should_move_moves_and_nothing_else(kind, task, method, backbone):
    import torch

    from hfadapt.training.freezing import only

    plain, parts = loaded(backbone, kind, task)
    adaptation = METHODS[method](**OPTIONS.get(method, {}))
    model = adaptation.wrap(plain, parts)
    for stage in adaptation.stages(model, parts):
        before = state(model)
        with only(model, stage.speeds):
            batch = inputs(plain, task)
            loss(model.train(), batch).backward()
            moving = {name: p for name, p in model.named_parameters() if p.requires_grad}
            assert set(moving) == set(stage.speeds)
            assert [name for name, p in moving.items() if p.grad is None] == []
            felt = {name for name, p in moving.items() if p.grad.any()}
            with torch.no_grad():
                for p in moving.values():
                    p -= 0.01 * p.grad.sign()
            model.zero_grad()
        after = state(model)
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert changed == felt | statistics(model, stage.speeds)
        assert {parts.part_of(name) for name in felt} == {parts.part_of(name) for name in moving}
        owned = [name for name in parts.head if "." in name] if method == "lora" else parts.head
        assert len([name for name in moving if parts.part_of(name) == "head"]) == len(owned) > 0


@pytest.mark.parametrize(("kind", "task"), CASES)
def test_an_adapter_merges_into_a_plain_model(kind, task, backbone):
    """After a step, so that the adapter has something to say."""
    import torch

    from hfadapt.training.freezing import only

    plain, parts = loaded(backbone, kind, task)
    names, batch = list(plain.state_dict()), inputs(plain, task, seed=1)
    adaptation = METHODS["lora"](r=2)
    with torch.no_grad():
        untouched = plain.eval()(**batch)[0]
    model = adaptation.wrap(plain, parts)
    (stage,) = adaptation.stages(model, parts)
    with only(model, stage.speeds):
        optimizer = torch.optim.Adam([model.get_parameter(name) for name in stage.speeds], lr=0.05)
        for _ in range(2):
            loss(model.train(), batch).backward()
            optimizer.step()
            optimizer.zero_grad()
    with torch.no_grad():
        adapted = model.eval()(**batch)[0]
        merged = adaptation.finish(model).eval()
        assert list(merged.state_dict()) == names
        assert torch.allclose(merged(**batch)[0], adapted, atol=1e-4)
        assert not torch.allclose(untouched, adapted, atol=1e-2)


@pytest.mark.parametrize("kind", SEEING)
def test_planning_sees_the_same_anatomy_without_weights(kind, backbone):
    from transformers import AutoModelForImageClassification as Auto

    with quiet():
        meta, found = Auto.from_pretrained(backbone(kind), num_labels=3, output_loading_info=True, device_map="meta")
    parts = anatomy(meta, found["missing_keys"])
    assert parts == loaded(backbone, kind, "classify")[1]
    assert METHODS["lora"](r=2).wrap(meta, parts)


@pytest.mark.parametrize("kind", SEEING)
def test_pictures_do_not_look_alike(kind, backbone):
    import numpy as np
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor

    with quiet():
        processor = AutoImageProcessor.from_pretrained(backbone(kind))
    noise = np.random.default_rng(0).integers(0, 255, (2, 40, 50, 3), dtype=np.uint8)
    colours = [Image.new("RGB", (50, 40), colour) for colour in ("red", "green", "blue", "white")]
    pixels = processor([*colours, *map(Image.fromarray, noise)], return_tensors="pt")["pixel_values"]
    assert pixels.shape == (6, 3, 32, 32)
    with torch.no_grad():
        logits = loaded(backbone, kind, "classify")[0].eval()(pixel_values=pixels).logits
    assert logits.std(0).max() > 0.1
    assert torch.pdist(logits).min() > 0.01


@pytest.mark.parametrize("kind", PAIRED)
def test_pairs_are_encoded_and_told_apart(kind, backbone):
    """The end of a text, or the last of the padding, is where the text tower looks."""
    import torch
    from PIL import Image
    from transformers import AutoProcessor

    with quiet():
        processor = AutoProcessor.from_pretrained(backbone(kind))
    texts = ["Sent it back.", "I would buy this again tomorrow.", "Cold soup, cold room, cold shoulder."]
    pictures = [Image.new("RGB", (50, 40), colour) for colour in ("red", "green", "blue")]
    batch = processor(text=texts, images=pictures, padding="max_length", return_tensors="pt")
    model, _ = loaded(backbone, kind, "pair")
    with torch.no_grad():
        outputs = model.eval()(**batch)
        longer = model(**batch | {"input_ids": torch.roll(batch["input_ids"], 1, dims=0)})
    assert torch.pdist(outputs.text_embeds).min() > 0.1
    assert torch.pdist(outputs.image_embeds).min() > 0.1
    if "attention_mask" not in batch:
        assert torch.allclose(longer.text_embeds, torch.roll(outputs.text_embeds, 1, dims=0), atol=1e-5)
