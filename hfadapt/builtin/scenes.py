"""Captioned pictures of coloured shapes, in a style new to builtin/clip-nano. Drawn anew, always the same."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import cos, pi, sin
from typing import TYPE_CHECKING, Any

from hfadapt.builtin._shapes import PAINTS, SHAPES, Colour, Part

if TYPE_CHECKING:
    from PIL import Image

SIDE = 48
"""Pixels of a picture's side."""
ROWS = {"train": 1512, "validation": 288, "test": 324}
"""Rows of each split; the same number for each of the 36 labels."""

COLOURS = {
    "red": (214, 40, 48),
    "orange": (244, 138, 28),
    "yellow": (246, 208, 44),
    "green": (56, 160, 72),
    "teal": (36, 176, 176),
    "blue": (44, 92, 204),
    "purple": (128, 60, 172),
    "pink": (244, 140, 184),
    "brown": (126, 76, 42),
    "black": (34, 34, 38),
    "grey": (140, 142, 146),
    "white": (250, 250, 250),
}
KINDS = tuple(SHAPES)[:12]
"""The shapes of the dataset."""
_TURNS = tuple(
    zip(
        ("triangle", "star", "heart", "arrow", "ring", "cross"),
        ("green", "purple", "orange", "red", "blue", "teal"),
        strict=True,
    )
)
HELD_OUT = tuple(f"{colour} {shape}" for i, (shape, _) in enumerate(_TURNS) for _, colour in (_TURNS[i], _TURNS[i - 1]))
"""Labels whose colour and shape builtin/clip-nano has never seen together, though each with others: six shapes in
two colours each, and every colour with two of the shapes, so that neither alone tells the label."""
LABELS = HELD_OUT + tuple(
    f"{tuple(COLOURS)[(2 * i + step) % 12]} {shape}"
    for i, shape in enumerate(kind for kind in KINDS if kind not in dict(_TURNS))
    for step in (0, 3, 6, 9)
)
"""The 36 labels of the dataset: each shape in two or four colours, each colour with several shapes."""

SYNONYMS = {
    "red": ("crimson", "scarlet"),
    "orange": ("amber",),
    "yellow": ("golden",),
    "green": ("emerald",),
    "teal": ("turquoise",),
    "blue": ("azure",),
    "purple": ("violet",),
    "pink": ("rosy",),
    "brown": ("chestnut",),
    "black": ("ebony",),
    "grey": ("silver",),
    "white": ("snowy",),
    "circle": ("disc",),
    "square": ("tile",),
    "triangle": ("wedge",),
    "star": ("five-pointed star",),
    "heart": ("love heart",),
    "cross": ("plus sign",),
    "ring": ("hoop",),
    "diamond": ("lozenge",),
    "crescent": ("half moon",),
    "arrow": ("pointer",),
    "drop": ("raindrop",),
    "flower": ("blossom",),
}
SIZES = {"small": (0.17, 0.21), "": (0.25, 0.35), "large": (0.37, 0.48)}
"""Half a thing's width as a share of the picture's; larger where it is alone in the middle."""
SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
PLACES = {
    (-1, -1): ("at the top left", "in the upper left corner"),
    (0, -1): ("at the top", "in the upper part"),
    (1, -1): ("at the top right", "in the upper right corner"),
    (-1, 0): ("on the left", "at the left side"),
    (0, 0): ("in the middle", "in the centre"),
    (1, 0): ("on the right", "at the right side"),
    (-1, 1): ("at the bottom left", "in the lower left corner"),
    (0, 1): ("at the bottom", "in the lower part"),
    (1, 1): ("at the bottom right", "in the lower right corner"),
}
COUNTS = {2: ("two", "a pair of", "2"), 3: ("three", "3")}
RELATIONS = {
    "above": ((0, -1), (0, 1)),
    "below": ((0, 1), (0, -1)),
    "to the left of": ((-1, 0), (1, 0)),
    "to the right of": ((1, 0), (-1, 0)),
    "on": ((0, 0), (0, 0)),
}
"""The places of the first thing and of the second; the first is painted last."""
POINTING = ("up", "right", "down", "left")


@dataclass(frozen=True)
class Style:
    """How pictures are painted and told."""

    patterns: tuple[str, ...]
    """What a thing may be filled with: solid, striped, dotted, hollow."""
    jitter: int
    """How far each channel of a colour may be from the named one, of 255."""
    turn: float
    """The largest turn of a thing, degrees."""
    texture: float
    """The strength of noise in the background, 0 to 1."""
    confetti: int
    """The most specks that lie about."""
    synonyms: float
    """The share of words for which a synonym is used."""


PLAIN = Style(("solid",), jitter=14, turn=12, texture=0.15, confetti=0, synonyms=0.0)
"""What builtin/clip-nano was pretrained on."""
SHIFTED = Style(("solid", "striped", "dotted", "hollow"), jitter=30, turn=25, texture=0.65, confetti=10, synonyms=0.5)
"""What the dataset is painted in."""


@dataclass(frozen=True)
class Thing:
    """One or several equal objects."""

    colour: str
    shape: str
    size: str = ""
    count: int = 1
    place: tuple[int, int] = (0, 0)
    pattern: str = "solid"
    pointing: int = 0
    """An index of `POINTING`; of arrows."""

    @property
    def label(self) -> str:
        """Colour and shape: "red triangle"."""
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """What is to be seen: a main thing, and perhaps others."""

    things: tuple[Thing, ...]
    relation: str = ""
    """Of the first thing to the second; empty where they lie about."""


def make() -> dict[str, dict[str, list[Any]]]:
    """Split → columns `image` (PNG bytes, as datasets.Image keeps them), `caption`, `label`."""
    made = {}
    for split, rows in ROWS.items():
        draw = random.Random(f"scenes {split}")
        columns: dict[str, list[Any]] = {"image": [], "caption": [], "label": []}
        labels = [LABELS[i % len(LABELS)] for i in range(rows)]
        draw.shuffle(labels)
        for label in labels:
            scene = labelled(draw, label, SHIFTED)
            file = io.BytesIO()
            picture(draw, scene, SHIFTED).save(file, "PNG", compress_level=1)
            columns["image"].append({"bytes": file.getvalue(), "path": None})
            columns["caption"].append(caption(draw, scene, SHIFTED))
            columns["label"].append(label)
        made[split] = columns
    return made


def labelled(draw: random.Random, label: str, style: Style) -> Scene:
    """A scene with one thing, or two or three equal ones, of the given label."""
    colour, _, shape = label.partition(" ")
    return Scene((_thing(draw, colour, shape, style),))


def pretraining(draw: random.Random) -> Iterator[Scene]:
    """The scenes that builtin/clip-nano is pretrained on, without end; none has anything of a held-out label.

    They come in groups of eight that differ in shapes only: negatives that colour and place cannot tell.
    """
    while True:
        kind = draw.random()
        if kind < 0.65:
            scene = Scene((_allowed(draw),))
        elif kind < 0.9:
            relation = draw.choice([*RELATIONS, "on"])
            first, second = (replace(_allowed(draw), count=1, size="", place=p) for p in RELATIONS[relation])
            if relation == "on":
                first, second = replace(first, size="small"), replace(second, size="large", shape="square")
            if first.colour == second.colour:
                continue
            scene = Scene((first, second), relation)
        else:
            places = draw.sample(list(PLACES), 3)
            scene = Scene(tuple(replace(_allowed(draw), count=1, size="", place=place) for place in places))
        yield scene
        for _ in range(7):
            yield replace(scene, things=tuple(_other(draw, thing) for thing in scene.things))


def _shape(draw: random.Random, colour: str) -> str:
    """A shape that is not held out in this colour; every other time one of the dataset's."""
    while True:
        shape = draw.choice(KINDS if draw.random() < 0.5 else tuple(SHAPES))
        if f"{colour} {shape}" not in HELD_OUT:
            return shape


def _other(draw: random.Random, thing: Thing) -> Thing:
    """The same with another shape."""
    shape = _shape(draw, thing.colour)
    return replace(thing, shape=shape, pointing=_pointing(draw, shape))


def _allowed(draw: random.Random) -> Thing:
    """Any thing but of a held-out label."""
    colour = draw.choice(tuple(COLOURS))
    return _thing(draw, colour, _shape(draw, colour), PLAIN)


def _thing(draw: random.Random, colour: str, shape: str, style: Style) -> Thing:
    size, place = draw.choices(("small", "", "large"), (1, 3, 3))[0], draw.choice(tuple(PLACES))
    count = draw.choices((1, 2, 3), (10, 2, 1))[0]
    if size == "large" or draw.random() < 0.4:
        place = (0, 0)
    if count > 1:
        size, place = "", (0, 0)
    return Thing(colour, shape, size, count, place, draw.choice(style.patterns), _pointing(draw, shape))


def _pointing(draw: random.Random, shape: str) -> int:
    return draw.choice((0, 0, 1, 2, 3)) if shape == "arrow" else 0


def caption(draw: random.Random, scene: Scene, style: Style) -> str:
    """One of many ways to say what is to be seen; what is said is always true."""
    first, *others = scene.things
    if scene.relation:
        return f"{_phrase(draw, first, style)} {scene.relation} {_phrase(draw, others[0], style)}"
    if others:
        *rest, last = (_phrase(draw, thing, style) for thing in scene.things)
        return f"{', '.join(rest)} and {last}"
    phrase = _phrase(draw, first, style)
    if first.count == 1 and draw.random() < (0.2 if first.place == (0, 0) else 0.5):
        where = draw.choice(PLACES[first.place])
        return draw.choice(
            (f"{phrase} {where}", f"{phrase} {where}", f"there is {phrase} {where}", f"{where}, {phrase}")
        )
    forms = ("{}", "{}", "{}", "a picture of {}", "a drawing of {}", "here {be} {}")
    return draw.choice(forms).format(phrase, be="is" if first.count == 1 else "are")


def _phrase(draw: random.Random, thing: Thing, style: Style) -> str:
    """The thing with an article or a number: "a small red triangle", "two striped blue stars"."""

    def word(plain: str) -> str:
        return draw.choice(SYNONYMS[plain]) if plain in SYNONYMS and draw.random() < style.synonyms else plain

    shape = word(thing.shape)
    words = [word(thing.colour), shape]
    if thing.pattern != "solid":
        words.insert(0, thing.pattern)
    if thing.size and draw.random() < 0.5:
        words.insert(0, draw.choice(SIZE_WORDS[thing.size]))
    if thing.count > 1:
        return f"{draw.choice(COUNTS[thing.count])} {' '.join(words)}{'es' if shape[-1] in 'sxh' else 's'}"
    if thing.shape == "arrow" and draw.random() < 0.5:
        words.append(f"pointing {POINTING[thing.pointing]}")
    return f"{'an' if words[0][0] in 'aeiou' else 'a'} {' '.join(words)}"


def picture(draw: random.Random, scene: Scene, style: Style) -> Image.Image:
    """The scene painted at twice the size and reduced: RGB, `SIDE` × `SIDE` pixels."""
    colours = [_near(draw, COLOURS[thing.colour], style.jitter) for thing in scene.things]
    ground = _ground(draw, colours[1:] if scene.relation == "on" else colours, style)
    for thing, colour in reversed(list(zip(scene.things, colours, strict=True))):
        for spot in _spots(draw, thing, scene):
            _paint(ground, thing, colour, _corners(draw, thing, spot, style))
    return ground.reduce(2)


def _near(draw: random.Random, colour: Colour, jitter: int) -> Colour:
    r, g, b = (min(255, max(0, channel + draw.randint(-jitter, jitter))) for channel in colour)
    return r, g, b


def _ground(draw: random.Random, colours: Sequence[Colour], style: Style) -> Image.Image:
    """A background that no thing is lost in: white, light, or any; with noise and specks where the style has them."""
    from PIL import Image, ImageDraw

    wide = 2 * SIDE
    tone = draw.choice([(255, 255, 255), (255, 255, 255), (230, 232, 236), (188, 204, 214), (58, 62, 72), None])
    tone = tone or _near(draw, (128, 128, 128), 110)
    while min(_apart(tone, colour) for colour in colours) < 140:
        tone = _near(draw, (128, 128, 128), 127)
    ground = Image.new("RGB", (wide, wide), tone)
    if draw.random() < 2 * style.texture:
        cells = draw.choice((3, 8, 24))
        noise = Image.frombytes("RGB", (cells, cells), draw.randbytes(3 * cells * cells))
        noise = noise.resize((wide, wide), Image.Resampling.BILINEAR)
        ground = Image.blend(ground, noise, draw.uniform(0.05, 0.45) * style.texture)
    specks = ImageDraw.Draw(ground)
    for _ in range(draw.randint(0, style.confetti)):
        x, y, reach = draw.uniform(0, wide), draw.uniform(0, wide), draw.uniform(1, 5)
        specks.ellipse((x - reach, y - reach, x + reach, y + reach), fill=_near(draw, (128, 128, 128), 127))
    return ground


def _apart(one: Colour, other: Colour) -> int:
    return sum(abs(a - b) for a, b in zip(one, other, strict=True))


def _spots(draw: random.Random, thing: Thing, scene: Scene) -> list[tuple[float, float, float]]:
    """Where each object of a thing lies and half its width, as shares of the picture's width."""
    low, high = SIZES[thing.size]
    radius = draw.uniform(low, high)
    if thing.count > 1:
        radius = draw.uniform(0.14, 0.22)
        across = [(0.27, 0.5), (0.73, 0.5)] if thing.count == 2 else [(0.27, 0.3), (0.73, 0.3), (0.5, 0.72)]
        flip = draw.random() < 0.5
        spots = [(y, x) if flip else (x, y) for x, y in across]
    elif len(scene.things) > 1 and scene.relation != "on":
        radius = draw.uniform(0.17, 0.24)
        spots = [(0.5 + 0.26 * thing.place[0], 0.5 + 0.26 * thing.place[1])]
    else:
        if thing.size == "" and thing.place != (0, 0):
            radius = draw.uniform(0.2, 0.25)
        spots = [(0.5 + 0.27 * thing.place[0], 0.5 + 0.27 * thing.place[1])]
    return [(x + draw.uniform(-0.04, 0.04), y + draw.uniform(-0.04, 0.04), radius) for x, y in spots]


def _corners(draw: random.Random, thing: Thing, spot: tuple[float, float, float], style: Style) -> list[Part]:
    """The parts of an object turned, stretched and put where it lies: pixels of the doubled picture."""
    x, y, radius = (2 * SIDE * share for share in spot)
    angle = (draw.uniform(-style.turn, style.turn) + 90 * thing.pointing) * pi / 180
    wide, across, up = radius * draw.uniform(0.92, 1.08), cos(angle), sin(angle)
    return [
        (
            paint,
            [(x + wide * across * u - radius * up * v, y + wide * up * u + radius * across * v) for u, v in corners],
        )
        for paint, corners in SHAPES[thing.shape]
    ]


def _paint(ground: Image.Image, thing: Thing, colour: Colour, parts: list[Part]) -> None:
    """Paint one object: what lies behind its silhouette, the silhouette, the details on it."""
    from PIL import Image, ImageDraw, ImageFilter

    brush, silhouette = ImageDraw.Draw(ground), Image.new("L", ground.size)
    mask = ImageDraw.Draw(silhouette)
    r, g, b = colour
    paints = PAINTS | {"shade": (r * 7 // 10, g * 7 // 10, b * 7 // 10)}
    last = max(i for i, (paint, _) in enumerate(parts) if paint in ("main", "hole"))
    for paint, corners in parts[: last + 1]:
        if paint in ("main", "hole"):
            mask.polygon(corners, fill=255 if paint == "main" else 0)
        else:
            brush.polygon(corners, fill=paints[paint])
    if thing.pattern == "hollow":
        inner = silhouette
        for _ in range(4):  # what MinFilter(9) does, in half the time
            inner = inner.filter(ImageFilter.MinFilter(3))
        silhouette.paste(0, mask=inner)
    elif thing.pattern != "solid":
        silhouette.paste(0, mask=_gaps(thing.pattern))
    ground.paste(colour, mask=silhouette)
    for paint, corners in parts[last + 1 :]:
        brush.polygon(corners, fill=paints[paint])


@cache
def _gaps(pattern: str) -> Image.Image:
    """Where a pattern leaves out the colour of a thing, in the doubled picture."""
    from PIL import Image, ImageDraw

    gaps = Image.new("L", (2 * SIDE, 2 * SIDE))
    brush = ImageDraw.Draw(gaps)
    for i in range(-2 * SIDE, 2 * SIDE, 9):
        if pattern == "striped":
            brush.line((i, 2 * SIDE, i + 2 * SIDE, 0), fill=255, width=3)
        elif pattern == "dotted":
            for j in range(0, 2 * SIDE, 9):
                brush.ellipse((i, j, i + 4, j + 4), fill=255)
    return gaps
