"""Shapes by formula: each is polygons in the square from -1 to 1, y downwards, painted one over the other."""

from __future__ import annotations

from math import cos, pi, sin

Point = tuple[float, float]
Colour = tuple[int, int, int]
Part = tuple[str, list[Point]]
"""What it is painted with, and the corners. `main` is the colour of the thing, `hole` shows what is behind it,
`shade` is a darker main colour; the others are colours of their own, in `PAINTS`."""

PAINTS: dict[str, Colour] = {
    "dark": (45, 40, 48),
    "light": (248, 248, 244),
    "skin": (252, 200, 92),
    "wood": (128, 82, 48),
    "leaf": (96, 152, 72),
    "glass": (176, 212, 232),
}


def _oval(x: float, y: float, rx: float, ry: float | None = None, start: float = 0, end: float = 360) -> list[Point]:
    """An ellipse or a slice of one; degrees clockwise from the right."""
    ry = rx if ry is None else ry
    steps = 28 if max(rx, ry) > 0.4 else 12
    angles = [(start + (end - start) * i / steps) * pi / 180 for i in range(steps + (end - start < 360))]
    return [(x + rx * cos(a), y + ry * sin(a)) for a in angles]


def _box(left: float, top: float, right: float, bottom: float) -> list[Point]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _spikes(points: int, inner: float, radius: float = 1.0) -> list[Point]:
    """A star; a regular polygon where `inner` is cos(pi / points)."""
    radii = (radius, radius * inner)
    angles = [pi * i / points - pi / 2 for i in range(2 * points)]
    return [(radii[i % 2] * cos(a), radii[i % 2] * sin(a)) for i, a in enumerate(angles)]


def _regular(points: int) -> list[Point]:
    return [(cos(2 * pi * i / points - pi / 2), sin(2 * pi * i / points - pi / 2)) for i in range(points)]


def _heart() -> list[Point]:
    angles = [2 * pi * i / 36 for i in range(36)]
    return [(sin(a) ** 3, -(13 * cos(a) - 5 * cos(2 * a) - 2 * cos(3 * a) - cos(4 * a)) / 16.5 - 0.08) for a in angles]


def _bite() -> list[Point]:
    """A crescent: the outer arc, then back along an inner one."""
    return _oval(0, 0, 1, 1, 55, 305) + _oval(0.42, 0, 0.84, 0.84, 285, 75)


def _drop() -> list[Point]:
    return [(0, -1), *_oval(0, 0.32, 0.66, 0.66, -25, 205)]


def _face(*features: Part) -> list[Part]:
    eyes = [("dark", _oval(x, -0.22, 0.13, 0.18)) for x in (-0.36, 0.36)]
    return [("main", _oval(0, 0, 1)), *eyes, *features]


def _animal(*ears: list[Point]) -> list[Part]:
    head: list[Part] = [("shade", ear) for ear in ears]
    eyes: list[Part] = [("dark", _oval(x, -0.05, 0.11, 0.14)) for x in (-0.34, 0.34)]
    snout: list[Part] = [("light", _oval(0, 0.45, 0.4, 0.3)), ("dark", _oval(0, 0.32, 0.14, 0.1))]
    return [*head, ("main", _oval(0, 0.15, 0.85, 0.8)), *eyes, *snout]


def _wheels() -> list[Part]:
    return [("dark", _oval(x, 0.5, 0.24)) for x in (-0.5, 0.5)]


def _person() -> list[Part]:
    head: list[Part] = [("skin", _oval(0, -0.38, 0.4, 0.46)), ("wood", _oval(0, -0.55, 0.46, 0.42, 180, 360))]
    return [
        ("main", _oval(0, 1, 0.85, 0.85, 180, 360)),
        *head,
        *(("dark", _oval(x, -0.36, 0.07)) for x in (-0.16, 0.16)),
    ]


_SMILE: Part = ("dark", _oval(0, 0.2, 0.5, 0.45, 0, 180))
_FROWN: Part = ("dark", _oval(0, 0.7, 0.42, 0.4, 180, 360))

SHAPES: dict[str, list[Part]] = {
    "circle": [("main", _oval(0, 0, 1))],
    "square": [("main", _box(-0.85, -0.85, 0.85, 0.85))],
    "triangle": [("main", [(0, -0.95), (1, 0.8), (-1, 0.8)])],
    "star": [("main", _spikes(5, 0.42))],
    "heart": [("main", _heart())],
    "cross": [("main", _box(-0.3, -0.95, 0.3, 0.95)), ("main", _box(-0.95, -0.3, 0.95, 0.3))],
    "ring": [("main", _oval(0, 0, 1)), ("hole", _oval(0, 0, 0.52))],
    "diamond": [("main", [(0, -1), (0.72, 0), (0, 1), (-0.72, 0)])],
    "crescent": [("main", _bite())],
    "arrow": [("main", [(0, -1), (0.85, -0.1), (0.3, -0.1), (0.3, 1), (-0.3, 1), (-0.3, -0.1), (-0.85, -0.1)])],
    "drop": [("main", _drop())],
    "flower": [
        *(("main", _oval(0.58 * x, 0.58 * y, 0.4)) for x, y in _regular(5)),
        ("light", _oval(0, 0, 0.3)),
    ],
    # from here on: in the pretraining only
    "hexagon": [("main", _regular(6))],
    "rectangle": [("main", _box(-1, -0.5, 1, 0.5))],
    "bar": [("main", _box(-0.22, -1, 0.22, 1))],
    "half circle": [("main", _oval(0, 0.4, 1, 1, 180, 360))],
    "burst": [("main", _spikes(12, 0.72))],
    "lightning bolt": [("main", [(0.25, -1), (-0.6, 0.15), (-0.05, 0.15), (-0.25, 1), (0.6, -0.25), (0.08, -0.25)])],
    "cloud": [
        ("main", _oval(-0.5, 0.2, 0.45)),
        ("main", _oval(0.1, -0.1, 0.55)),
        ("main", _oval(0.6, 0.25, 0.4)),
        ("main", _box(-0.5, 0.2, 0.6, 0.65)),
    ],
    "leaf": [
        ("main", _oval(0, -0.55, 1, 1.1, 35, 145) + _oval(0, 0.71, 1, 1.1, 215, 325)),
        ("dark", _box(-0.8, 0.04, 0.8, 0.12)),
    ],
    "tree": [("wood", _box(-0.16, 0.3, 0.16, 1)), ("main", _oval(0, -0.25, 0.75, 0.72))],
    "pine tree": [
        ("wood", _box(-0.13, 0.6, 0.13, 1)),
        *(
            ("main", [(0, y - 0.65), (w, y + 0.15), (-w, y + 0.15)])
            for y, w in ((-0.35, 0.45), (0.1, 0.6), (0.5, 0.75))
        ),
    ],
    "house": [
        ("main", _box(-0.7, -0.15, 0.7, 0.9)),
        ("dark", [(0, -1), (0.95, -0.15), (-0.95, -0.15)]),
        ("wood", _box(-0.15, 0.3, 0.2, 0.9)),
        ("glass", _box(0.32, 0.1, 0.58, 0.38)),
        ("glass", _box(-0.58, 0.1, -0.32, 0.38)),
    ],
    "tower": [
        ("main", _box(-0.45, -1, 0.45, 1)),
        *(("glass", _box(x, y, x + 0.22, y + 0.28)) for x in (-0.3, 0.08) for y in (-0.8, -0.35, 0.1, 0.55)),
    ],
    "car": [
        ("main", _box(-1, -0.05, 1, 0.5)),
        ("main", [(-0.55, -0.6), (0.4, -0.6), (0.75, 0), (-0.75, 0)]),
        ("glass", [(-0.45, -0.48), (-0.05, -0.48), (-0.05, -0.05), (-0.6, -0.05)]),
        ("glass", [(0.05, -0.48), (0.33, -0.48), (0.58, -0.05), (0.05, -0.05)]),
        *_wheels(),
    ],
    "bus": [
        ("main", _box(-1, -0.7, 1, 0.5)),
        *(("glass", _box(x, -0.5, x + 0.4, -0.1)) for x in (-0.85, -0.25, 0.35)),
        *_wheels(),
    ],
    "boat": [
        ("main", [(-1, 0.25), (1, 0.25), (0.6, 0.85), (-0.6, 0.85)]),
        ("wood", _box(-0.06, -0.95, 0.06, 0.25)),
        ("light", [(0.1, -0.9), (0.75, 0.12), (0.1, 0.12)]),
    ],
    "rocket": [
        ("dark", [(-0.3, 0.3), (-0.75, 0.85), (0.75, 0.85), (0.3, 0.3)]),
        ("main", _oval(0, 0, 0.42, 1)),
        ("glass", _oval(0, -0.25, 0.2)),
    ],
    "fish": [
        ("main", _oval(-0.2, 0, 0.8, 0.5)),
        ("main", [(0.45, 0), (1, -0.5), (1, 0.5)]),
        ("light", _oval(-0.6, -0.12, 0.14)),
        ("dark", _oval(-0.62, -0.12, 0.07)),
    ],
    "bird": [
        ("main", _oval(0.05, 0.2, 0.7, 0.5)),
        ("main", _oval(-0.5, -0.3, 0.36)),
        ("wood", [(-0.8, -0.4), (-1, -0.2), (-0.78, -0.15)]),
        ("shade", _oval(0.25, 0.1, 0.45, 0.25)),
        ("dark", _oval(-0.56, -0.36, 0.08)),
    ],
    "cat face": _animal([(-0.8, -0.95), (-0.1, -0.5), (-0.75, 0.05)], [(0.8, -0.95), (0.1, -0.5), (0.75, 0.05)]),
    "bear face": _animal(_oval(-0.6, -0.5, 0.35), _oval(0.6, -0.5, 0.35)),
    "rabbit face": _animal(_oval(-0.4, -0.65, 0.2, 0.6), _oval(0.4, -0.65, 0.2, 0.6)),
    "ladybird": [
        ("dark", _oval(0, -0.6, 0.45)),
        ("main", _oval(0, 0.15, 0.8)),
        ("dark", _box(-0.05, -0.6, 0.05, 0.95)),
        *(("dark", _oval(x, y, 0.15)) for x in (-0.4, 0.4) for y in (-0.1, 0.4)),
    ],
    "smiling face": _face(_SMILE),
    "sad face": _face(_FROWN),
    "surprised face": _face(("dark", _oval(0, 0.45, 0.24, 0.3))),
    "face with open mouth": _face(("dark", _oval(0, 0.1, 0.62, 0.68, 0, 180)), ("light", _box(-0.5, 0.12, 0.5, 0.27))),
    "face with sunglasses": _face(_SMILE, ("dark", _box(-0.8, -0.45, -0.08, 0)), ("dark", _box(0.08, -0.45, 0.8, 0))),
    "person": _person(),
    "hand": [
        ("main", _oval(0, 0.4, 0.55, 0.55)),
        ("main", _oval(-0.68, 0.15, 0.2, 0.4)),
        *(
            ("main", _box(x, top, x + 0.22, 0.4))
            for x, top in ((-0.52, -0.6), (-0.25, -0.85), (0.03, -0.8), (0.3, -0.55))
        ),
    ],
    "eye": [("light", _oval(0, 0, 1, 0.55)), ("main", _oval(0, 0, 0.5)), ("dark", _oval(0, 0, 0.24))],
    "sun": [("main", _spikes(9, 0.65)), ("light", _oval(0, 0, 0.55)), ("main", _oval(0, 0, 0.48))],
    "flag": [("wood", _box(-0.95, -1, -0.8, 1)), ("main", _box(-0.8, -0.9, 1, 0.2))],
    "mug": [("main", _oval(0.5, 0.05, 0.48)), ("hole", _oval(0.5, 0.05, 0.26)), ("main", _box(-0.8, -0.65, 0.45, 0.8))],
    "bottle": [
        ("main", _box(-0.4, -0.3, 0.4, 1)),
        ("main", _box(-0.15, -0.8, 0.15, -0.2)),
        ("dark", _box(-0.2, -1, 0.2, -0.78)),
        ("light", _box(-0.4, 0.1, 0.4, 0.55)),
    ],
    "mushroom": [
        ("light", _box(-0.26, 0, 0.26, 0.95)),
        ("main", _oval(0, 0.15, 0.95, 0.95, 180, 360)),
        *(("light", _oval(x, y, 0.14)) for x, y in ((-0.45, -0.15), (0.1, -0.45), (0.5, -0.1))),
    ],
    "apple": [
        ("main", _oval(-0.28, 0.2, 0.6, 0.72)),
        ("main", _oval(0.28, 0.2, 0.6, 0.72)),
        ("wood", _box(-0.06, -0.85, 0.06, -0.3)),
        ("leaf", _oval(0.32, -0.7, 0.28, 0.14)),
    ],
    "cake": [
        ("main", _box(-0.9, 0.1, 0.9, 0.9)),
        ("light", _box(-0.9, -0.1, 0.9, 0.3)),
        ("wood", _box(-0.07, -0.7, 0.07, -0.1)),
        ("skin", _oval(0, -0.82, 0.1, 0.18)),
    ],
    "ice cream": [("wood", [(-0.5, 0), (0.5, 0), (0, 1)]), ("main", _oval(0, -0.35, 0.62))],
    "umbrella": [("wood", _box(-0.06, 0, 0.06, 1)), ("main", _oval(0, 0.1, 1, 1, 180, 360))],
    "key": [
        ("main", _oval(-0.55, 0, 0.45)),
        ("hole", _oval(-0.55, 0, 0.2)),
        ("main", _box(-0.2, -0.13, 1, 0.13)),
        ("main", _box(0.65, 0, 0.85, 0.45)),
        ("main", _box(0.3, 0, 0.48, 0.35)),
    ],
    "lock": [
        ("dark", _oval(0, -0.25, 0.55, 0.7)),
        ("hole", _oval(0, -0.25, 0.35, 0.5)),
        ("main", _box(-0.75, -0.15, 0.75, 0.95)),
    ],
    "bell": [
        ("main", _oval(0, 0, 0.6, 0.95, 180, 360)),
        ("main", [(-0.6, -0.05), (0.6, -0.05), (0.9, 0.6), (-0.9, 0.6)]),
        ("dark", _oval(0, 0.75, 0.2)),
    ],
    "shirt": [
        ("main", _box(-0.5, -0.75, 0.5, 0.95)),
        ("main", [(-0.5, -0.75), (-1, -0.25), (-0.75, 0.1), (-0.4, -0.2)]),
        ("main", [(0.5, -0.75), (1, -0.25), (0.75, 0.1), (0.4, -0.2)]),
        ("hole", _oval(0, -0.8, 0.24, 0.2)),
    ],
    "hat": [
        ("main", _box(-0.55, -0.7, 0.55, 0.5)),
        ("main", _oval(0, 0.5, 1, 0.2)),
        ("dark", _box(-0.55, 0.1, 0.55, 0.35)),
    ],
    "clock": [
        ("main", _oval(0, 0, 1)),
        ("light", _oval(0, 0, 0.75)),
        ("dark", _box(-0.06, -0.6, 0.06, 0.06)),
        ("dark", _box(-0.06, -0.06, 0.45, 0.06)),
    ],
    "book": [
        ("main", _box(-0.8, -0.95, 0.8, 0.95)),
        ("light", _box(-0.5, -0.6, 0.5, -0.2)),
        ("shade", _box(-0.8, -0.95, -0.62, 0.95)),
    ],
    "phone": [
        ("main", _box(-0.5, -1, 0.5, 1)),
        ("glass", _box(-0.38, -0.75, 0.38, 0.6)),
        ("light", _oval(0, 0.8, 0.1)),
    ],
    "ball": [("main", _oval(0, 0, 1)), ("light", _oval(0, 0, 1, 0.3)), ("shade", _oval(0, 0, 0.25))],
    "envelope": [("main", _box(-1, -0.65, 1, 0.7)), ("light", [(-0.9, -0.6), (0.9, -0.6), (0, 0.2)])],
}
"""Name → parts in the order of painting; the first twelve are those of the dataset."""
