"""Shared by all tests: offline, few threads, small backbones made once."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


@pytest.fixture(scope="session", autouse=True)
def _own_caches(tmp_path_factory: pytest.TempPathFactory):
    """What tests cache is theirs, not the user's."""
    os.environ["HFADAPT_CACHE"] = str(tmp_path_factory.mktemp("caches"))


@pytest.fixture(scope="module", autouse=True)
def _undrawn(request: pytest.FixtureRequest):
    """Drawing takes a third of a tiny run; the charts of modules that do not say DRAWS are a single point."""
    from io import BytesIO

    from PIL import Image

    from hfadapt.scoring import drawing

    point = BytesIO()
    Image.new("RGB", (1, 1)).save(point, "PNG")
    with pytest.MonkeyPatch.context() as patch:
        if not getattr(request.module, "DRAWS", False):
            patch.setattr(drawing, "_save", lambda _, path: Path(path).write_bytes(point.getvalue()))
        yield


@pytest.fixture(scope="session")
def nursery():
    """Runs Python processes that start at once; see `nursery.Nursery`."""
    from nursery import Nursery

    made = Nursery()
    yield made
    made.close()


@pytest.fixture(scope="module", autouse=True)
def _checked_at_once(nursery, request: pytest.FixtureRequest):
    """To import transformers takes most of a contract check; modules that say FRESH have it done each time."""
    from hfadapt.contract import checking

    with pytest.MonkeyPatch.context() as patch:
        if not getattr(request.module, "FRESH", False):
            patch.setattr(checking, "Popen", nursery.later)
        yield


TEXTS = [
    "Arrived early, works perfectly, looks better than in the photo.",
    "It stopped charging after a week and nobody answers.",
    "I would buy this again tomorrow.",
    "Two hours late and nobody said why.",
    "The staff smiled, the soup was hot, the bill was small.",
    "Cold soup, cold room, cold shoulder.",
    "My sister borrowed it and will not give it back.",
    "Sent it back the same day.",
]
SHARED = Path(__file__).parent.parent.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared data sets; a test that needs them skips where they are not."""
    if not SHARED.is_dir():
        pytest.skip(f"the shared data sets are not at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory):
    """Makes a small random backbone of a kind, once: `backbone("bert")` → its folder."""
    from hfadapt import tiny
    from hfadapt.noise import quiet

    made: dict[tuple[str, str], Path] = {}

    def make(model_type: str, auto_class: str = "AutoModel") -> Path:
        key = (model_type, auto_class)
        if key not in made:
            with quiet():
                folder = tmp_path_factory.mktemp(model_type)
                made[key] = tiny.checkpoint(folder, model_type, TEXTS, auto_class=auto_class)
        return made[key]

    return make


@pytest.fixture(scope="session")
def pair(nursery, tmp_path_factory: pytest.TempPathFactory):
    """Two processes that train together; see `pair.Pair`."""
    from pair import Pair

    made = Pair(tmp_path_factory.mktemp("pair"), nursery)
    yield made
    made.close()


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A csv of 64 texts whose label one word decides: `text`, `label`, `stars`, `tags`."""
    import csv
    import random

    draw = random.Random(0)
    words = ["table", "chair", "window", "river", "stone", "bread", "paper", "cloud", "garden", "street"]
    path = tmp_path_factory.mktemp("toy") / "toy.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "stars", "tags", "other"])
        for i in range(64):
            good = i % 2 == 0
            sign = "wonderful" if good else "dreadful"
            text = " ".join([*draw.choices(words, k=draw.randint(2, 9)), sign, draw.choice(words)])
            tags = [t for t, on in (("up", good), ("long", len(text) > 45)) if on]
            row = [
                text,
                "good" if good else "bad",
                4.5 if good else 1.5,
                "|".join(tags),
                " ".join(draw.choices(words, k=4)),
            ]
            writer.writerow(row)
    return path


@pytest.fixture(scope="session")
def few(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 16 rows of the toy data to train on, 8 to validate and 8 to test: one batch is an epoch."""
    lines = toy.read_text(encoding="utf-8").splitlines(keepends=True)
    folder = tmp_path_factory.mktemp("few")
    for split, rows in (("train", lines[1:17]), ("validation", lines[17:25]), ("test", lines[25:33])):
        (folder / f"{split}.csv").write_text(lines[0] + "".join(rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of drawn pictures: `train/round/0.png` …, and per split a `captions.csv` (`file`, `text`, `label`).

    27 train, 8 validation and 8 test pictures of 40 x 36 pixels, round or angular, red, green or blue; two
    pictures of train have the same caption.
    """
    import csv
    import random

    from PIL import Image, ImageDraw

    draw, folder = random.Random(0), tmp_path_factory.mktemp("pictures")
    colours = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 70, 220)}
    for split, number in (("train", 27), ("validation", 8), ("test", 8)):
        rows = []
        for i in range(number):
            kind, colour = ("round", "angular")[i % 2], list(colours)[i % 3]
            picture = Image.new("RGB", (40, 36), tuple(draw.randrange(180, 256) for _ in range(3)))
            x, y, side = draw.randrange(2, 18), draw.randrange(2, 14), draw.randrange(12, 20)
            shape = ImageDraw.Draw(picture).ellipse if kind == "round" else ImageDraw.Draw(picture).rectangle
            shape((x, y, x + side, y + side), fill=colours[colour])
            path = folder / split / kind / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
            text = f"a {colour} {kind} thing at {x} {y}" if i > 1 else "a thing"
            rows.append([f"{kind}/{i}.png", text, kind])
        with (folder / split / "captions.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["file", "text", "label"], *rows])
    return folder
