"""Pictures changed at random before each epoch: the same generator gives the same picture, whatever process asks.

Geometry is Pillow's, which shrinks and turns in less time than it takes to make a tensor; the rest is kornia's. What
kornia does is drawn for each picture by itself, and done to all at once that drew the same operation.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

NAMES = ("crop", "flip", "rotate", "colour", "rand_augment", "trivial_augment", "erasing", "mixup", "cutmix")
BETWEEN = Image.Resampling.BILINEAR
_TOGETHER = 1 << 15
"""Pixels that one call of kornia changes on a CPU; pictures of which no two have so few are changed one by one.

More would leave the processor's cache and take no less time. And torch divides the sum over a larger picture among its
threads, where it is alone in a call: the mean brightness, about which contrast changes, would depend on its company.
"""


def names() -> tuple[str, ...]:
    """The options there are, in the order in which they act."""
    return NAMES


class Augmenter:
    """Changes pictures at random, each by a generator of its own: what shares its batch is nothing to it.

    options: any object with the fields below, absent or empty ones being off.
        crop: the least share of the area that is kept, in a part of aspect 3/4 to 4/3 (Szegedy et al. 2015)
        flip: "horizontal", "vertical" or "both", each with probability 1/2
        rotate: up to so many degrees either way; corners take the colour of the picture's edge
        colour: strength of changes to brightness, contrast and saturation, a quarter of it to the hue
        rand_augment: two operations of a strength up to this, 30 being most, or `{n: operations, m: strength}`
        (Cubuk et al. 2020; 9 is usual)
        trivial_augment: one operation of any strength (Müller and Hutter 2021)
        erasing: the probability of a grey rectangle (Zhong et al. 2020)
    size: (height, width) that the model sees.
    """

    def __init__(self, options: object, size: tuple[int, int]) -> None:
        self.options = {name: getattr(options, name, None) for name in NAMES}
        self.size = size

    def __call__(self, pictures: Iterable[Image.Image], draws: Sequence[np.random.Generator]) -> list[Image.Image]:
        """RGB pictures changed; in the model's size if they were cropped, else not enlarged.

        Uncropped pictures of more than twice the model's size are halved, and halved again, before all else.
        """
        moved, seeds = self.moved(pictures, draws)
        return self._through_kornia(moved, seeds) if seeds else moved

    def moved(
        self, pictures: Iterable[Image.Image], draws: Sequence[np.random.Generator]
    ) -> tuple[list[Image.Image], list[int]]:
        """What Pillow does to pictures, and for each a seed of what `painted` does next; none if that is nothing."""
        moved = [self._moved(picture, draw) for picture, draw in zip(pictures, draws, strict=True)]
        return moved, [int(draw.integers(1 << 62)) for draw in draws] if self.paints else []

    @property
    def paints(self) -> bool:
        """Whether kornia has anything to do."""
        return any(self.options[name] for name in ("colour", "rand_augment", "trivial_augment", "erasing"))

    def painted(self, pixels: Sequence[Any], seeds: Sequence[int], together: int = _TOGETHER) -> list[Any]:
        """What kornia does, where the pixels lie: uint8 (3, height, width) each, both sides above 2.

        together: the pixels of one call.
        """
        import torch

        shares, drawn = [one / 255 for one in pixels], []
        with torch.random.fork_rng(devices=[]):
            for one, seed in zip(shares, seeds, strict=True):
                # Not torch.manual_seed, which would seed every accelerator as well.
                torch.default_generator.manual_seed(seed)
                drawn.append([step for its in self._operations for step in _steps(its, one.shape, together)])
            for steps in zip(*drawn, strict=True):
                _take(steps, shares, together)
        return [one.clamp(0, 1).mul_(255).round_().byte() for one in shares]

    def _moved(self, picture: Image.Image, random: np.random.Generator) -> Image.Image:
        if self.options["crop"]:
            picture = _cropped(picture, self.options["crop"], self.size, random)
        else:
            picture = _shrunk(picture, self.size)
        picture = _flipped(picture, self.options["flip"], random)
        if self.options["rotate"]:
            angle = random.uniform(-self.options["rotate"], self.options["rotate"])
            picture = picture.rotate(angle, BETWEEN, fillcolor=_edge(picture))
        return picture

    def _through_kornia(self, pictures: list[Image.Image], seeds: list[int]) -> list[Image.Image]:
        import torch

        # Kornia sharpens none that is narrower.
        wide = [i for i, picture in enumerate(pictures) if min(picture.size) > 2]
        small = [i for i in wide if _most(pictures[i].size) > 1]
        large = [[i] for i in wide if _most(pictures[i].size) == 1]
        found = list(pictures)
        # Large ones one after the other, so that no two of them lie there as floats.
        for places in (small, *large):
            pixels = [torch.from_numpy(np.array(pictures[i])).permute(2, 0, 1) for i in places]
            for i, one in zip(places, self.painted(pixels, [seeds[i] for i in places]), strict=True):
                found[i] = Image.fromarray(one.permute(1, 2, 0).numpy())
        return found

    @cached_property
    def _operations(self) -> list[Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import kornia.augmentation as kornia
            from kornia.augmentation.auto import TrivialAugment

        found: list[Any] = []
        if strength := self.options["colour"]:
            found.append(kornia.ColorJitter(strength, strength, strength, min(0.5, strength / 4)))
        if self.options["rand_augment"]:
            operations, strength = _rand(self.options["rand_augment"])
            found += [TrivialAugment(_policy(strength / 30), "skip")] * operations
        if self.options["trivial_augment"]:
            found.append(TrivialAugment(_policy(1), "skip"))
        if self.options["erasing"]:
            found.append(kornia.RandomErasing(p=self.options["erasing"], value=0.5))
        return found


def mix(
    kind: Literal["mixup", "cutmix"], alpha: float, one: np.ndarray, other: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Two encoded pictures as one, and the share of the first in it: that is its label's weight.

    mixup (Zhang et al. 2017) adds them, cutmix (Yun et al. 2019) pastes a rectangle of the other into the first; the
    share is drawn from Beta(alpha, alpha). one, other: float32 (channels, height, width); neither is changed.
    """
    if one.shape != other.shape:
        raise ValueError(f"pictures of {one.shape} and {other.shape} cannot be mixed")
    share = float(random.beta(alpha, alpha))
    if kind == "mixup":
        return (one * np.float32(share) + other * np.float32(1 - share)), share
    _, height, width = one.shape
    side = math.sqrt(1 - share)
    top, bottom = _around(int(random.integers(height)), round(height * side), height)
    left, right = _around(int(random.integers(width)), round(width * side), width)
    mixed = one.copy()
    mixed[:, top:bottom, left:right] = other[:, top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)


def sheet(path: Path | str, rows: Sequence[Sequence[Image.Image]], titles: Sequence[str], tile: int = 100) -> None:
    """Write a contact sheet (PNG): a row of pictures under each title, the original first.

    tile: the side of the square that each picture is fitted into, in pixels.
    """
    gap, line = 8, 18
    width = max([gap + (tile + gap) * len(row) for row in rows] + [2 * gap + tile])
    paper = Image.new("RGB", (width, gap + (line + tile + gap) * len(rows)), "white")
    draw, font = ImageDraw.Draw(paper), ImageFont.load_default(13)
    for number, (row, title) in enumerate(zip(rows, titles, strict=True)):
        top = gap + number * (line + tile + gap)
        draw.text((gap, top), _fitting(title, width - 2 * gap, font), "black", font)
        for column, picture in enumerate(row):
            small = ImageOps.contain(picture, (tile, tile), Image.Resampling.BICUBIC)
            left = gap + column * (tile + gap) + (tile - small.width) // 2
            paper.paste(small, (left, top + line + (tile - small.height) // 2))
    paper.save(path, "PNG")


def _cropped(picture: Image.Image, least: float, size: tuple[int, int], random: np.random.Generator) -> Image.Image:
    """A random part in the model's size."""
    width, height = picture.size
    box = (0.0, 0.0, float(width), float(height))
    for _ in range(10):
        area = width * height * random.uniform(least, 1)
        aspect = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        wide, high = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if wide <= width and high <= height:
            left, top = random.uniform(0, width - wide), random.uniform(0, height - high)
            box = (left, top, left + wide, top + high)
            break
    else:
        # Long pictures have no such part: the middle, as near to a square as may be.
        wide, high = min(width, height * 4 / 3), min(height, width * 4 / 3)
        left, top = (width - wide) / 2, (height - high) / 2
        box = (left, top, left + wide, top + high)
    return picture.resize((size[1], size[0]), BETWEEN, box=box, reducing_gap=3)


def _shrunk(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    factor = min(picture.width // (2 * size[1]), picture.height // (2 * size[0]))
    return picture.reduce(1 << factor.bit_length() - 1) if factor > 1 else picture


def _flipped(picture: Image.Image, ways: str | None, random: np.random.Generator) -> Image.Image:
    if ways in ("horizontal", "both") and random.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if ways in ("vertical", "both") and random.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return picture


def _edge(picture: Image.Image) -> tuple[int, int, int]:
    """The usual colour of the outermost pixels."""
    pixels = np.asarray(picture)
    rim = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    red, green, blue = np.median(rim, axis=0).astype(int).tolist()
    return red, green, blue


def _rand(given: Any) -> tuple[int, int]:
    """How many operations, and how strong they are."""
    if isinstance(given, int):
        return 2, given
    if isinstance(given, Mapping):
        return given.get("n", 2), given["m"]
    return given.n, given.m


def _policy(share: float) -> list[list[tuple[str, float, float]]]:
    """Operations and their ranges at a share of the full strength; those of RandAugment's paper at 1.

    Kornia's own RandAugment blackens most at the least magnitude and changes no colour at the middle one. Its own
    policies add inverted colours, keep no bit at all in some pictures, which come out black, and shear by up to a
    slope of 1.4 where the papers say 0.3.
    """
    shear = share * math.degrees(math.atan(0.3)) / 180
    fades = [(name, 1 - 0.9 * share, 1 + 0.9 * share) for name in ("color", "contrast", "brightness", "sharpness")]
    moves = [("rotate", 30 * share), ("shear_x", shear), ("shear_y", shear)]
    moves += [("translate_x", 0.1 * share), ("translate_y", 0.1 * share)]
    others = [("auto_contrast", 0, 1), ("equalize", 0, 1), ("posterize", 8 - 4 * share, 8), ("solarize", 1 - share, 1)]
    return [[operation] for operation in [*others, *fades, *((name, -most, most) for name, most in moves)]]


def _most(size: Sequence[int], together: int = _TOGETHER) -> int:
    """How many pictures of a size one call of kornia changes."""
    return max(1, together // math.prod(size))


class _Step(NamedTuple):
    """A change that was drawn for a picture."""

    kind: Hashable
    """Pictures whose changes are of one kind are changed together."""
    operation: Any
    """Of kornia."""
    drawn: Any
    """What the operation drew, for a batch of one."""


def _steps(operation: Any, shape: Sequence[int], together: int = _TOGETHER) -> list[_Step]:
    """What an operation of kornia draws for a picture of a shape, (channels, height, width)."""
    import torch

    drawn = operation.forward_parameters(torch.Size((1, *shape)))
    if isinstance(drawn, list):
        # A policy has chosen one of its operations.
        return [_Step(drawn[0].name, operation, drawn)]
    if "order" in drawn and _most(shape[1:], together) > 1:
        # ColorJitter has one order for all pictures of a call: here it adjusts one thing a call.
        return [_Step(one, operation, drawn | {"order": torch.tensor([one])}) for one in drawn["order"].tolist()]
    return [_Step(None, operation, drawn)]


def _take(steps: Sequence[_Step], pixels: list[Any], together: int = _TOGETHER) -> None:
    """Replace pixels, (channels, height, width) each, by what a step of each makes of them."""
    import torch

    alike = defaultdict(list)
    for i, (step, one) in enumerate(zip(steps, pixels, strict=True)):
        alike[step.kind, one.shape].append(i)
    for (_, (_, *size)), places in alike.items():
        most = _most(size, together)
        for start in range(0, len(places), most):
            part = places[start : start + most]
            drawn = _together([steps[i].drawn for i in part])
            # A copy of a large picture would cost a tenth of its time.
            batch = torch.stack([pixels[i] for i in part]) if most > 1 else pixels[part[0]][None]
            for i, one in zip(part, steps[part[0]].operation(batch, params=drawn), strict=True):
                pixels[i] = one


def _together(drawn: Sequence[Any]) -> Any:
    """What kornia drew for batches of one, as if for one batch of all; where it chose, it chose the same for each."""
    import torch

    first = drawn[0]
    if isinstance(first, list):
        return [_together(parts) for parts in zip(*drawn, strict=True)]
    if isinstance(first, dict):
        # These two are no rows, but one fact of a batch.
        alike = ("order", "forward_input_shape")
        return {name: first[name] if name in alike else torch.cat([its[name] for its in drawn]) for name in first}
    return first._replace(data=_together([its.data for its in drawn]))


def _around(middle: int, length: int, most: int) -> tuple[int, int]:
    return max(0, middle - length // 2), min(most, middle - length // 2 + length)


def _fitting(title: str, width: int, font: Any) -> str:
    """A title in one line, cut where it is too long."""
    title = " ".join(title.split())
    if font.getlength(title) <= width:
        return title
    while title and font.getlength(title + "…") > width:
        title = title[: -max(1, len(title) // 16)]
    return title.rstrip() + "…"
