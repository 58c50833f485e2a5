"""Augmented pictures: one generator, one picture; nothing else is changed by making it."""

from __future__ import annotations

import random
import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from hfadapt import tiny
from hfadapt.data.augmenting import Augmenter, _policy, _steps, _take, mix, names, sheet
from hfadapt.tasks import _pictures

OPTIONS = {
    "crop": {"crop": 0.3},
    "flip": {"flip": "both"},
    "rotate": {"rotate": 20.0},
    "colour": {"colour": 0.4},
    "rand_augment": {"rand_augment": {"n": 2, "m": 9}},
    "trivial_augment": {"trivial_augment": True},
    "erasing": {"erasing": 1.0},
    "all": {"crop": 0.5, "flip": "horizontal", "rotate": 9.0, "colour": 0.3, "rand_augment": 5, "erasing": 0.5},
}


def scene(width: int = 60, height: int = 44) -> Image.Image:
    small = np.random.default_rng(3).integers(40, 220, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def augmenter(options: dict, size=(32, 24)) -> Augmenter:
    return Augmenter(SimpleNamespace(**options), size)


def one(change: Augmenter, picture: Image.Image, draw) -> Image.Image:
    """A picture that is a batch by itself."""
    (changed,) = change([picture], [np.random.default_rng(draw)])
    return changed


def test_every_option_is_tried_here():
    assert set(OPTIONS) - {"all"} == set(names()) - {"mixup", "cutmix"}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_generator_decides_the_picture_and_nothing_else_moves(name):
    import torch

    change, picture = augmenter(OPTIONS[name]), scene()
    before = picture.tobytes()
    torch.manual_seed(7)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = [one(change, picture, [5, row]) for row in range(12)]
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (np.random.get_state()[1].tolist(), random.getstate())
    torch.manual_seed(8)
    again = [one(augmenter(OPTIONS[name]), picture, [5, row]) for row in range(12)]
    assert [its.tobytes() for its in first] == [its.tobytes() for its in again]
    assert len({its.tobytes() for its in first}) > (2 if name == "flip" else 6)
    assert picture.tobytes() == before
    for changed in first:
        assert changed.mode == "RGB"
        assert changed.size == ((24, 32) if "crop" in OPTIONS[name] else picture.size)


def many() -> list[Image.Image]:
    """Pictures of several sizes, two of which have calls of kornia to themselves."""
    sizes = [(32, 32)] * 9 + [(60, 44)] * 5 + [(44, 60)] * 4 + [(200, 180)] * 2
    return [Image.fromarray(np.asarray(scene(*size)) + np.uint8(i)) for i, size in enumerate(sizes)]


@pytest.mark.parametrize("name", OPTIONS)
def test_what_shares_its_batch_is_nothing_to_a_picture(name):
    change, pictures, order = augmenter(OPTIONS[name], (48, 48)), many(), np.random.default_rng(0)
    alone = [one(change, picture, [2, row]) for row, picture in enumerate(pictures)]
    for size in (20, 13, 6, 2):
        rows = order.permutation(len(pictures))[:size].tolist()
        made = change([pictures[row] for row in rows], [np.random.default_rng([2, row]) for row in rows])
        assert [its == alone[row] for its, row in zip(made, rows, strict=True)] == [True] * size


@pytest.mark.parametrize("name", ["colour", "rand_augment", "trivial_augment", "erasing"])
def test_a_batch_is_what_kornia_makes_of_each_picture(name):
    """So nothing is drawn otherwise than by kornia's own call for that picture."""
    import torch

    change, pictures, found = augmenter(OPTIONS[name], (48, 48)), many(), []
    for row, picture in enumerate(pictures):
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.default_rng([4, row]).integers(1 << 62)))
            for operation in change._operations:
                pixels = operation(pixels)
        found.append((pixels[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())
    made = change(pictures, [np.random.default_rng([4, row]) for row in range(len(pictures))])
    assert [np.array_equal(its, goal) for its, goal in zip(made, found, strict=True)] == [True] * len(pictures)
    assert sum(its != picture for its, picture in zip(made, pictures, strict=True)) > len(pictures) * 2 / 3


def test_kornia_s_calls_are_few_and_no_larger_than_they_may_be(monkeypatch):
    import torch
    from kornia.augmentation import RandomErasing

    seen = []
    forward = RandomErasing.forward
    monkeypatch.setattr(
        RandomErasing,
        "forward",
        lambda self, pixels, **more: seen.append(pixels.shape) or forward(self, pixels, **more),
    )
    pictures = [scene(32, 32)] * 40 + [scene(20, 10)] * 3 + [scene(200, 180)] * 2
    augmenter({"erasing": 1.0}, (100, 90))(pictures, [np.random.default_rng(i) for i in range(45)])
    assert seen == [
        torch.Size(its) for its in ((32, 3, 32, 32), (8, 3, 32, 32), (3, 3, 10, 20), *[(1, 3, 180, 200)] * 2)
    ]


@pytest.mark.parametrize("side", [60, 220])
def test_sums_over_pictures_do_not_depend_on_the_batch_where_there_are_threads(side):
    """torch divides a long sum among threads; the last bit shows in one pixel of a million."""
    import torch

    (jitter,) = augmenter({"colour": 0.4})._operations
    pixels = list(torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.random.fork_rng(devices=[]):
            steps = [_steps(jitter, one.shape) for one in pixels]
        alone, together = [], list(pixels)
        for row, its in zip(steps, pixels, strict=True):
            alone.append([its])
            for step in row:
                _take([step], alone[-1])
        for step in zip(*steps, strict=True):
            _take(step, together)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, its) for (one,), its in zip(alone, together, strict=True))
    assert not torch.equal(together[0], pixels[0])


@pytest.mark.parametrize("size", [(1, 1), (2000, 2), (3, 96), (224, 224)])
@pytest.mark.parametrize("name", OPTIONS)
def test_odd_sizes_are_no_trouble(name, size):
    changed = one(augmenter(OPTIONS[name]), scene(*size), 1)
    assert changed.mode == "RGB" and min(changed.size) >= 1


def test_no_operation_fails_on_a_picture_too_narrow_to_be_sharpened():
    pictures = [scene(2, 50), scene(1, 1), scene(3, 3), scene(40000, 2)] * 60
    draws = [np.random.default_rng(i) for i in range(len(pictures))]
    made = augmenter({"trivial_augment": True}, (40000, 40000))(pictures, draws)
    assert made[::4] == pictures[::4] and made[2::4] != pictures[2::4]


def test_nothing_asked_nothing_changed():
    assert one(augmenter({}), scene(), 0).tobytes() == scene().tobytes()
    assert one(augmenter(dict.fromkeys(names())), scene(), 0).tobytes() == scene().tobytes()


def test_large_pictures_are_shrunk_first_but_stay_twice_the_model_s_size():
    changed = one(augmenter({"flip": "horizontal"}, (32, 24)), scene(1000, 700), 0)
    assert 48 <= changed.width <= 130 and 64 <= changed.height <= 130
    assert abs(changed.width / changed.height - 10 / 7) < 0.05


def test_a_crop_keeps_the_least_share():
    """In a picture whose colours are places, the corners of a crop tell what was kept."""
    across, down = np.meshgrid(np.linspace(0, 255, 256), np.linspace(0, 255, 256))
    places = Image.fromarray(np.stack([across, down, across * 0], -1).astype(np.uint8))
    change, shares = augmenter({"crop": 0.4}, (64, 64)), []
    for seed in range(60):
        kept = np.asarray(one(change, places, seed), float)
        shares.append(np.ptp(kept[..., 0]) * np.ptp(kept[..., 1]) / 255**2)
    assert 0.35 < min(shares) < 0.55 and 0.8 < max(shares) <= 1


def test_corners_take_the_colour_of_the_edge():
    white = Image.new("RGB", (40, 40), "white")
    white.paste("red", (10, 10, 30, 30))
    changed = np.asarray(one(augmenter({"rotate": 45.0}), white, 2))
    assert (changed[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()


def test_flips_go_the_way_they_are_asked():
    picture = scene()
    ways = {"horizontal": Image.Transpose.FLIP_LEFT_RIGHT, "vertical": Image.Transpose.FLIP_TOP_BOTTOM}
    for way, turn in ways.items():
        seen = {one(augmenter({"flip": way}), picture, i).tobytes() for i in range(20)}
        assert seen == {picture.tobytes(), picture.transpose(turn).tobytes()}


def test_a_stronger_rand_augment_changes_more():
    def change(strength: int) -> float:
        makes = augmenter({"rand_augment": {"n": 1, "m": strength}})
        made = makes([scene()] * 60, [np.random.default_rng(i) for i in range(60)])
        return float(np.median([np.abs(np.asarray(its, float) - np.asarray(scene())).mean() for its in made]))

    assert change(1) < change(10) < change(30)
    for share in (0.01, 1):
        ranges = {name: (low, high) for ((name, low, high),) in _policy(share)}
        assert ranges["posterize"][0] >= 4 and ranges["brightness"][0] > 0.09
        assert sum(ranges["brightness"]) == pytest.approx(2)


@pytest.mark.parametrize("given", [{"n": 1, "m": 9}, SimpleNamespace(n=1, m=9)])
def test_rand_augment_is_given_in_either_form(given):
    def change(form) -> Image.Image:
        return one(augmenter({"rand_augment": form}), scene(), 0)

    assert change(given) == change({"n": 1, "m": 9})
    assert change(9) == change({"m": 9})


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_the_share_is_that_of_the_first(kind):
    one, other = np.ones((3, 20, 30), np.float32), np.zeros((3, 20, 30), np.float32)
    shares = []
    for seed in range(200):
        mixed, share = mix(kind, 1.0, one, other, np.random.default_rng(seed))
        assert mixed.dtype == np.float32 and mixed.shape == one.shape
        assert mixed.mean() == pytest.approx(share, abs=1e-5)
        shares.append(share)
    assert one.min() == 1 and other.max() == 0
    assert min(shares) < 0.15 and max(shares) > 0.9
    same, share = mix(kind, 0.4, one, other, np.random.default_rng(3))
    again, other_share = mix(kind, 0.4, one, other, np.random.default_rng(3))
    assert share == other_share and np.array_equal(same, again)


def test_cutmix_pastes_and_mixup_adds():
    one, other = np.ones((3, 20, 30), np.float32), np.zeros((3, 20, 30), np.float32)
    assert set(np.unique(mix("cutmix", 1.0, one, other, np.random.default_rng(0))[0])) == {0.0, 1.0}
    assert len(np.unique(mix("mixup", 1.0, one, other, np.random.default_rng(0))[0])) == 1
    with pytest.raises(ValueError, match="cannot be mixed"):
        mix("mixup", 1.0, one, other[:, 1:], np.random.default_rng(0))


@pytest.mark.parametrize("kind", ["vit", "clip", "siglip", "beit", "convnext", "efficientnet", "mobilenet_v2"])
def test_a_cropped_picture_is_encoded_as_pillow_s_is(kind):
    processor, pictures = tiny.image_processor(kind), [scene(32, 32), scene(32, 32).rotate(90)]
    whole = processor(pictures, return_tensors="pt", do_resize=False, do_center_crop=False)["pixel_values"].numpy()
    made = _pictures.pixels(pictures, processor, cropped=True)
    assert np.array_equal(made, whole) and made[0].dtype == np.float32 and made[0].flags.c_contiguous
    assert _pictures.pixels([scene(40, 32)], processor, cropped=True)[0].shape == (3, 32, 40)


def test_kornia_is_imported_only_when_asked_for():
    code = (
        "import sys, numpy; from types import SimpleNamespace as O; from PIL import Image;"
        "from hfadapt.data.augmenting import Augmenter; p = Image.new('RGB', (9, 9));"
        "Augmenter(O(crop=.5, flip='both', rotate=9.), (8, 8))([p], [numpy.random.default_rng(0)]);"
        "print('kornia' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"


def test_a_sheet_has_a_tile_for_every_picture(tmp_path):
    rows = [[Image.new("RGB", (30, 20), "red")] * 3, [Image.new("RGB", (20, 300), "blue")] * 2]
    sheet(tmp_path / "sheet.png", rows, ["red", "a title far too long for its place " * 9])
    drawn = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"), int)
    assert drawn.shape == (8 + 2 * 126, 8 + 3 * 108, 3)
    assert (drawn[0] == 255).all() and (drawn[:, -1] == 255).all()
    red, blue = (np.abs(drawn - colour).sum(-1) == 0 for colour in ((255, 0, 0), (0, 0, 255)))
    assert red.sum() > 3 * 100 * 60 and blue.sum() > 2 * 100 * 6
    sheet(tmp_path / "empty.png", [], [])
