"""The built-in scenes say what they show; builtin/clip-nano loads plainly and knows what it has not seen."""

from __future__ import annotations

import io
import random
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from hfadapt.builtin import scenes

MODEL = Path(scenes.__file__).parent / "clip-nano"


@pytest.fixture(scope="module")
def made() -> dict[str, dict[str, list]]:
    return scenes.make()


@pytest.fixture(scope="module")
def clip():
    """The model and the processor, as transformers alone loads them."""
    from transformers import AutoProcessor, CLIPModel

    from hfadapt.noise import quiet

    with quiet():
        return CLIPModel.from_pretrained(MODEL).eval(), AutoProcessor.from_pretrained(MODEL)


def opened(cell: dict):
    from PIL import Image

    return Image.open(io.BytesIO(cell["bytes"]))


def texts(model, processor, said: list[str]):
    import torch

    with torch.no_grad():
        encoded = processor(text=said, padding=True, truncation=True, return_tensors="pt")
        return torch.nn.functional.normalize(model.get_text_features(**encoded).pooler_output, dim=-1)


def test_the_same_rows_each_time(made):
    again = scenes.make()
    assert again == made
    assert not set(map(str, made["train"]["image"])) & set(map(str, made["test"]["image"]))


def test_rows_sizes_and_labels(made):
    assert {split: len(columns["label"]) for split, columns in made.items()} == scenes.ROWS
    assert len(scenes.LABELS) == len(set(scenes.LABELS)) == 36
    colours, shapes = (Counter(part) for part in zip(*(label.split(" ", 1) for label in scenes.LABELS), strict=True))
    assert len(colours) >= 10 and len(shapes) >= 10
    assert min(shapes.values()) >= 2
    for columns in made.values():
        assert len(set(Counter(columns["label"]).values())) == 1
        assert {opened(cell).size for cell in columns["image"]} == {(48, 48)}
        assert {opened(cell).mode for cell in columns["image"]} == {"RGB"}


def test_held_out_labels_need_both_colour_and_shape():
    colours, shapes = (Counter(part) for part in zip(*(label.split() for label in scenes.HELD_OUT), strict=True))
    assert len(scenes.HELD_OUT) >= 10
    assert set(scenes.HELD_OUT) <= set(scenes.LABELS)
    assert min(colours.values()) >= 2 and min(shapes.values()) >= 2  # so neither alone tells a label


def test_nothing_held_out_is_pretrained_on():
    draw = random.Random(5)
    shown = list(islice(scenes.pretraining(draw), 8000))
    seen = {thing.label for scene in shown for thing in scene.things}
    assert not seen & set(scenes.HELD_OUT)
    for label in scenes.HELD_OUT:
        colour, shape = label.split()
        assert any(other.split()[0] == colour for other in seen)
        assert any(other.split(" ", 1)[1] == shape for other in seen)
    said = [scenes.caption(draw, scene, scenes.PLAIN) for scene in shown]
    assert not [text for text in said for label in scenes.HELD_OUT if label in text]
    assert len(set(said)) > 4000


def test_captions_agree_with_labels(made):
    for columns in made.values():
        for text, label in zip(columns["caption"], columns["label"], strict=True):
            for word in label.split():
                assert any(known in text for known in (word, *scenes.SYNONYMS[word])), (text, label)
    several = {count for text in made["train"]["caption"] for count in ("two ", "three ") if count in text}
    assert several == {"two ", "three "}


def test_pictures_show_the_colour_where_the_caption_places_it():
    draw = random.Random(0)
    for place in scenes.PLACES:
        thing = scenes.Thing("red", "circle", "small", place=place)
        pixels = np.asarray(scenes.picture(draw, scenes.Scene((thing,)), scenes.PLAIN), np.int64)
        red = np.abs(pixels - np.array(scenes.COLOURS["red"])).max(2) <= scenes.PLAIN.jitter
        y, x = (np.flatnonzero(red.any(axis)).mean() for axis in (1, 0))
        assert abs(x - 23.5 - 13 * place[0]) < 4 and abs(y - 23.5 - 13 * place[1]) < 4


@pytest.mark.parametrize("pattern", scenes.SHIFTED.patterns)
def test_each_pattern_is_painted(pattern):
    thing = scenes.Thing("blue", "square", "large", pattern=pattern)
    pixels = np.asarray(scenes.picture(random.Random(1), scenes.Scene((thing,)), scenes.PLAIN), np.int64)
    middle = pixels[18:30, 18:30].reshape(-1, 3)
    blue = (np.abs(middle - np.array(scenes.COLOURS["blue"])).max(1) <= scenes.PLAIN.jitter).mean()
    low, high = {"solid": (1, 1), "striped": (0.2, 0.9), "dotted": (0.2, 0.9), "hollow": (0, 0)}[pattern]
    assert low <= blue <= high


def test_relations_put_the_first_thing_where_they_say():
    draw = random.Random(0)
    first, second = scenes.Thing("red", "circle", place=(0, -1)), scenes.Thing("blue", "square", place=(0, 1))
    scene = scenes.Scene((first, second), "above")
    pixels = np.asarray(scenes.picture(draw, scene, scenes.PLAIN), np.int64)
    assert pixels[8:16, 22:26, 0].mean() > pixels[8:16, 22:26, 2].mean()
    assert pixels[32:40, 22:26, 0].mean() < pixels[32:40, 22:26, 2].mean()
    assert scenes.caption(draw, scene, scenes.PLAIN) == "a red circle above a blue square"


def test_clip_nano_is_small_and_tells_texts_apart(clip):
    model, processor = clip
    assert sum(p.numel() for p in model.parameters()) <= 6_000_000
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= 12_000_000
    assert str(next(model.parameters()).dtype) == "torch.float32"
    # pooled at the end of the text: padding changes nothing, another last word does
    alone = texts(model, processor, ["a red star", "a red circle"])
    padded = texts(model, processor, ["a red star", "two large green rings in the upper left corner"])
    assert float(abs(alone[0] - padded[0]).max()) < 1e-4
    assert float(abs(alone[0] - alone[1]).max()) > 1e-2


def test_any_text_can_be_encoded(clip):
    words = clip[1].tokenizer
    text = "grinning face with big eyes: Côte d’Ivoire 🎉"
    assert words.decode(words(text)["input_ids"], skip_special_tokens=True).strip() == text.lower()
    ids = words("red " * 100, truncation=True)["input_ids"]
    assert len(ids) == clip[0].config.text_config.max_position_embeddings
    assert ids[-1] == words.eos_token_id == clip[0].config.text_config.eos_token_id


def test_clip_nano_knows_held_out_labels(clip):
    import torch

    model, processor = clip
    draw = random.Random("a fixed sample")
    labels = [label for label in scenes.HELD_OUT for _ in range(10)]
    pictures = [scenes.picture(draw, scenes.labelled(draw, label, scenes.PLAIN), scenes.PLAIN) for label in labels]
    with torch.no_grad():
        shown = model.get_image_features(**processor(images=pictures, return_tensors="pt")).pooler_output
    said = [f"{'an' if label[0] == 'o' else 'a'} {label}" for label in scenes.HELD_OUT]
    guessed = (shown @ texts(model, processor, said).T).argmax(1)
    right = np.mean([scenes.HELD_OUT[i] == label for i, label in zip(guessed.tolist(), labels, strict=True)])
    assert right > 0.8


def test_no_file_of_clip_nano_names_a_place():
    files = [path for path in MODEL.iterdir() if path.suffix in {".json", ".md"}]
    assert len(files) >= 4
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert "_name_or_path" not in text and "/home" not in text and "/tmp" not in text
