"""Pictures drawn by formula, endlessly many of each class: what builtin/vit-nano learns from.

Three families of shapes. Fractals are the attractors of iterated function systems (FractalDB, Kataoka et al. 2020,
Pre-training without Natural Images, https://arxiv.org/abs/2101.08515). Contours are radii that vary with the angle
(RCDB, Kataoka et al. 2022, Replacing Labeled Real-image Datasets with Auto-generated Contours,
https://arxiv.org/abs/2206.09132). Curves are open strokes, sums of a few cosines. A class is one set of numbers; a
picture of it varies those numbers a little, and the pose, colours, line widths and ground a lot.

Points are (x, y), with y downwards as in pictures; a shape is centred at 0 and about 2 across before it is posed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Floats = NDArray[np.float64]
Random = np.random.Generator

SIZE = 48
"""Width and height of a picture, in pixels."""
FINE = 2 * SIZE
"""Shapes are drawn at this size and halved, so that their edges are smooth."""
UPRIGHT = 12
"""Width and height of a shape as it is before it is posed, in pixels."""
WALKERS, STEPS, BURN_IN = 48, 40, 12
"""A fractal is the path of so many points through so many random maps, after some that are not drawn."""
ANGLES = np.linspace(0, 2 * np.pi, 120, endpoint=False)
TIMES = np.linspace(0, np.pi, 48)
_Y, _X = np.mgrid[:SIZE, :SIZE] / SIZE


@dataclass(frozen=True)
class Fractal:
    """An iterated function system: x → maps[i, :, :2] @ x + maps[i, :, 2], map i with probability shares[i]."""

    maps: Floats
    """(maps, 2, 3)"""
    shares: Floats
    """(maps,)"""


@dataclass(frozen=True)
class Contour:
    """Closed lines around a centre: ring k has the radius rings[k] · (1 + Σ size · cos(h · angle + phase))."""

    harmonics: Floats
    """(terms, 3): h, size, phase."""
    rings: Floats
    """(rings,), the outermost first, at 1."""


@dataclass(frozen=True)
class Curve:
    """Open strokes: x(t) and y(t) are Σ weights[stroke, axis, term] · cos(term · t), t from 0 to π."""

    weights: Floats
    """(strokes, 2, terms)"""


Shape = Fractal | Contour | Curve


@dataclass(frozen=True)
class Drawn:
    """Pictures, and what is known of them because they were drawn."""

    pictures: NDArray[np.uint8]
    """(pictures, 48, 48, 3)"""
    covered: NDArray[np.uint8]
    """Where the shape is: (pictures, 48, 48), 0 to 255."""
    upright: NDArray[np.uint8]
    """The shape alone, as it is before it is posed: (pictures, 12, 12), 0 to 255."""


def shapes(random: Random, fractals: int, contours: int, curves: int) -> list[Shape]:
    """So many classes of each family, drawn at random."""
    return [
        *(_fractal(random) for _ in range(fractals)),
        *(_contour(random) for _ in range(contours)),
        *(_curve(random) for _ in range(curves)),
    ]


def pictures(classes: list[Shape], ids: NDArray[np.int64], random: Random, hard: float = 1.0) -> Drawn:
    """A new picture of each of these classes.

    Args:
        classes: what can be drawn.
        ids: the places in `classes` of what is drawn.
        random: what all variation comes from.
        hard: from 0 to 1. The share of pictures in many colours on a textured ground, where the rest is light on
            dark; and how much the pose varies.
    """
    chosen = [classes[i] for i in ids]
    systems = [shape for shape in chosen if isinstance(shape, Fractal)]
    clouds = iter(_walk(systems, random) if systems else ())
    made = np.empty((len(ids), SIZE, SIZE, 3), np.uint8)
    covered = np.empty((len(ids), SIZE, SIZE), np.uint8)
    upright = np.empty((len(ids), UPRIGHT, UPRIGHT), np.uint8)
    for row, shape in enumerate(chosen):
        pose = _pose(random, hard)
        if isinstance(shape, Fractal):
            layers = [_dots(next(clouds) @ pose[:, :2].T + pose[:, 2])]
        elif isinstance(shape, Contour):
            layers = _rings(shape, pose, random)
        else:
            layers = [_strokes(shape, pose, random)]
        made[row] = _painted(layers, random) if random.random() < hard else _plain(layers, random)
        covered[row] = np.max(layers, axis=0)
        upright[row] = _unposed(covered[row], pose)
    return Drawn(made, covered, upright)


def _fractal(random: Random) -> Fractal:
    """The first drawn whose attractor is neither a few dots nor one lump; 2 to 5 maps."""
    while True:
        maps = random.uniform(-1, 1, (random.integers(2, 6), 2, 3))
        areas = np.abs(np.linalg.det(maps[:, :, :2]))
        norms = np.linalg.norm(maps[:, :, :2], 2, axis=(1, 2))
        if norms.max() > 0.95 or areas.sum() < 0.3:  # contracting, and not a mere dust
            continue
        system = Fractal(maps, (areas + 0.02) / (areas + 0.02).sum())
        (cloud,) = _walk([system], random, jitter=0)
        filled = (_dots(cloud * 0.45 * FINE + FINE / 2) > 64).mean()
        if 0.12 < filled < 0.5:
            return system


def _walk(systems: list[Fractal], random: Random, jitter: float = 0.1) -> Floats:
    """Points of each attractor, its maps a little changed: (systems, points, 2), centred, about 2 across."""
    most = max(len(system.maps) for system in systems)
    maps = np.zeros((len(systems), most, 2, 3))
    upto = np.ones((len(systems), most))
    for row, system in enumerate(systems):
        maps[row, : len(system.maps)] = system.maps
        upto[row, : len(system.maps)] = np.cumsum(system.shares)
    maps *= random.uniform(1 - jitter, 1 + jitter, maps.shape)
    rows = np.arange(len(systems))[:, None]
    at = np.zeros((len(systems), WALKERS, 2))
    path = []
    for step in range(BURN_IN + STEPS):
        pick = (random.random((len(systems), WALKERS, 1)) > upto[:, None, :-1]).sum(-1)
        taken = maps[rows, pick]
        at = taken[..., 0] * at[..., :1] + taken[..., 1] * at[..., 1:] + taken[..., 2]
        if step >= BURN_IN:
            path.append(at)
    points = np.concatenate(path, axis=1)
    points -= points.mean(1, keepdims=True)
    return points / (2.2 * points.std(1, keepdims=True).max(2, keepdims=True) + 1e-6)


def _contour(random: Random) -> Contour:
    terms = random.integers(2, 6)
    high = random.choice(np.arange(1, 9), terms, replace=False)
    size = random.uniform(0.1, 0.6, terms) / np.sqrt(high)
    rings = np.cumprod(np.concatenate([[1.0], random.uniform(0.45, 0.8, random.integers(0, 3))]))
    return Contour(np.stack([high, size, random.uniform(0, 2 * np.pi, terms)], 1), rings)


def _curve(random: Random) -> Curve:
    terms = np.arange(7)
    weights = random.normal(0, 1, (random.integers(1, 4), 2, len(terms))) / np.maximum(terms, 0.8) ** 1.2
    weights[0, :, 0] = 0
    return Curve(weights)


def _pose(random: Random, hard: float) -> Floats:
    """From a shape to pixels of the fine canvas, (2, 3): turned, scaled, stretched, sheared, moved."""
    turn = hard * random.normal(0, 0.25)
    long = random.uniform(0.42 - 0.2 * hard, 0.5) * FINE
    stretch = np.diag(long * np.exp(hard * random.normal(0, 0.12, 2)))
    shear = np.array([[1, hard * random.normal(0, 0.15)], [0, 1]])
    turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    room = max(0.5 * FINE - 0.8 * long, 0.06 * FINE)
    middle = FINE / 2 + hard * random.uniform(-room, room, 2)
    return np.column_stack([turned @ shear @ stretch, middle])


def _dots(points: Floats) -> NDArray[np.uint8]:
    """Points (points, 2) in fine pixels as a mask (48, 48)."""
    x, y = (points // (FINE / SIZE)).astype(int).T
    inside = (x >= 0) & (x < SIZE) & (y >= 0) & (y < SIZE)
    counts = np.bincount(y[inside] * SIZE + x[inside], minlength=SIZE * SIZE).reshape(SIZE, SIZE)
    return (255 * np.minimum(counts / 2, 1)).astype(np.uint8)


def _rings(shape: Contour, pose: Floats, random: Random) -> list[NDArray[np.uint8]]:
    """One mask a ring, or one of all; filled or as lines."""
    high, size, phase = shape.harmonics.T[:, :, None]
    size = size * random.uniform(0.8, 1.2, size.shape)
    phase = phase + random.normal(0, 0.12, phase.shape)
    radius = np.abs(1 + (size * np.cos(high * ANGLES + phase)).sum(0)) + 0.05
    outline = radius[:, None] * np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1)
    outline /= np.abs(outline - outline.mean(0)).max()
    lines = [(outline - outline.mean(0)) * ring @ pose[:, :2].T + pose[:, 2] for ring in shape.rings]
    filled = random.random() < 0.5
    if filled and len(lines) > 1:
        return [_drawn([line], True, 0) for line in lines]
    return [_drawn(lines, filled, _width(random))]


def _strokes(shape: Curve, pose: Floats, random: Random) -> NDArray[np.uint8]:
    weights = shape.weights * random.uniform(0.85, 1.15, shape.weights.shape)
    weights = weights + random.normal(0, 0.06, weights.shape)
    terms = np.arange(weights.shape[-1])
    points = (weights @ np.cos(terms[:, None] * TIMES)).transpose(0, 2, 1)
    low, high = points.min((0, 1)), points.max((0, 1))
    points = 2 * (points - (low + high) / 2) / (high - low).max()
    return _drawn(list(points @ pose[:, :2].T + pose[:, 2]), False, _width(random), closed=False)


def _unposed(mask: NDArray[np.uint8], pose: Floats) -> NDArray[np.uint8]:
    """From a mask (48, 48) and the pose of its shape to the shape before that, (12, 12)."""
    twice = 2 * UPRIGHT
    pixel = pose[:, :2] * (2.2 / twice * SIZE / FINE)  # the 12 pixels show -1.1 to 1.1
    corner = pose @ [-1.1, -1.1, 1] * SIZE / FINE
    back = (*pixel[0], corner[0], *pixel[1], corner[1])
    found = Image.fromarray(mask).transform((twice, twice), Image.Transform.AFFINE, back, Image.Resampling.BILINEAR)
    return np.asarray(found.reduce(2))


def _width(random: Random) -> int:
    """Of a line, in fine pixels."""
    return int(random.integers(3, 13))


def _drawn(lines: list[Floats], filled: bool, width: int, closed: bool = True) -> NDArray[np.uint8]:
    """A mask (48, 48) of lines (points, 2) in fine pixels."""
    canvas = Image.new("L", (FINE, FINE))
    draw = ImageDraw.Draw(canvas)
    for line in lines:
        flat = line.ravel().tolist()
        if filled:
            draw.polygon(flat, fill=255)
        else:
            draw.line(flat + flat[:4] if closed else flat, fill=255, width=width)
    if not filled:  # wide lines come out ragged where they bend
        canvas = canvas.filter(ImageFilter.BoxBlur(2)).point([0] * 110 + [255] * 146)
    return np.asarray(canvas.reduce(FINE // SIZE))


def _painted(layers: list[NDArray[np.uint8]], random: Random) -> NDArray[np.uint8]:
    """Masks (48, 48), each over those before it, coloured on a ground: (48, 48, 3)."""
    picture = _ground(random)
    under = picture.mean((0, 1))
    for mask in layers:
        colour = _apart(under, random)
        fill = colour + _slope(random) * random.normal(0, 25, 3)
        picture += (mask / 255)[..., None] * (fill - picture)
        under = colour
    if random.random() < 0.3:
        _erase(picture, random)
    if random.random() < 0.5:
        picture += random.normal(0, random.uniform(2, 14), picture.shape)
    return picture.clip(0, 255).astype(np.uint8)


def _plain(layers: list[NDArray[np.uint8]], random: Random) -> NDArray[np.uint8]:
    """Masks (48, 48) as greys on black: (48, 48, 3)."""
    grey = np.zeros((SIZE, SIZE))
    for mask in layers:
        grey += mask / 255 * (random.uniform(120, 255) - grey)
    return np.repeat(grey[..., None], 3, 2).astype(np.uint8)


def _apart(colour: Floats, random: Random) -> Floats:
    """Another colour, not too near to this one; one in four is grey."""
    while True:
        other = random.uniform(0, 255, 3) if random.random() < 0.75 else np.full(3, random.uniform(0, 255))
        if np.abs(other - colour).mean() > 45:
            return other


def _slope(random: Random) -> Floats:
    """A gradient across the picture, from about -1 to 1: (48, 48, 1)."""
    turn = random.uniform(0, 2 * np.pi)
    return 2 * ((_X - 0.5) * np.cos(turn) + (_Y - 0.5) * np.sin(turn))[..., None]


def _ground(random: Random) -> Floats:
    """What shapes lie on: plain, a gradient, stripes, blobs or noise: (48, 48, 3)."""
    colour = random.uniform(0, 255, 3) if random.random() < 0.7 else np.full(3, random.uniform(0, 255))
    change = random.normal(0, 30, 3)
    kind = random.integers(0, 6)
    if kind == 0:
        return np.broadcast_to(colour, (SIZE, SIZE, 3)).copy()
    if kind == 1:
        return colour + _slope(random) * change
    if kind == 2:
        return colour + np.sin(_slope(random) * random.uniform(5, 40) + random.uniform(0, 6)) * change
    cells = (2, 4, 8, 16)[random.integers(0, 4)]
    rough = Image.fromarray(random.normal(0, 1, (cells, cells)).astype(np.float32))
    way = Image.Resampling.BICUBIC if kind < 5 else Image.Resampling.NEAREST
    return colour + np.asarray(rough.resize((SIZE, SIZE), way), np.float64)[..., None] * change


def _erase(picture: Floats, random: Random) -> None:
    """Put a rectangle of one colour over up to a twelfth of it."""
    wide, high = random.integers(5, 15, 2)
    x, y = random.integers(0, SIZE - wide), random.integers(0, SIZE - high)
    picture[y : y + high, x : x + wide] = random.uniform(0, 255, 3)
