"""What is asked: trainings that are measured on two sides, and the ratios that are read of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

OURS, CAREFUL, EXAMPLE = "hfadapt", "careful", "example"
"""Sides of most trainings: a Trainer set by one who knows it, and one set as transformers' example sets it."""


@dataclass(frozen=True)
class Setup:
    """A training, and who carries it out."""

    name: str
    model: str
    """A name of `stock.COMES_ALONG` or `stock.MADE`, or a folder."""
    rows: int
    """Training rows; a sixth of them each to validate by and to test."""
    batch: int
    epochs: int
    data: str = "sentences"
    """A name of `stock.DATA`, or a folder with a file or folder per split."""
    adapt: Any = "full"
    """Of hfadapt's recipe."""
    moves: str = "all"
    """The same for the peer: `all`, `head`, `top 3`, `gradual`, `lora`."""
    sides: tuple[str, ...] = (OURS, CAREFUL)
    whole: bool = False
    """Whether whole processes are timed: start-up, evaluations, checkpoints and judging included."""
    fewer: Mapping[str, int] = field(default_factory=dict)
    """Sides that train on the first of the rows only, where the rate of the others would take too long."""
    rate: float = 5e-5
    """The learning rate."""
    longest: int = 128
    """Texts are cut to so many tokens."""
    repeats: int = 100
    """It is repeated so often at most, for the time it takes, or because it hardly varies."""

    @property
    def digest(self) -> str:
        """Tells a training from what it was with other settings."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:8]

    @property
    def steps(self) -> int:
        """The steps of an epoch."""
        return -(-self.rows // self.batch)

    def small(self) -> Setup:
        """The same with few rows, to try whether all of it runs."""
        rows = max(2 * self.batch, self.rows // 16)
        epochs = self.epochs if self.moves == "gradual" else min(self.epochs, 2)
        return replace(self, rows=rows, epochs=epochs, fewer=dict.fromkeys(self.fewer, 2 * self.batch))


@dataclass(frozen=True)
class Question:
    """A ratio of two measured values, and what it should be."""

    says: str
    setup: str
    over: tuple[str, str]
    """Side and value of the numerator."""
    under: tuple[str, str] | None = None
    """Of the denominator; the numerator alone counts where there is none."""
    aim: float | None = None
    at_most: bool = False
    unit: str = "×"

    def reached(self, value: float) -> bool | None:
        """Whether a value is what was aimed at."""
        if self.aim is None:
            return None
        return value <= self.aim if self.at_most else value >= self.aim


def arithmetic(blocks: int, moving: int, epochs: int | None = None) -> float:
    """How much less there is to compute where outputs of frozen blocks are kept, `moving` of the blocks training.

    A forward pass through a block counts 1, a backward pass 2. epochs: all of them, with the first one, which computes
    what is kept; None for those after it.
    """
    careful, kept = blocks + 2 * moving, 3 * moving
    return careful / kept if epochs is None else epochs * careful / (careful + (epochs - 1) * kept)


def arithmetic_gradual(blocks: int, epochs: int) -> float:
    """The same of gradual unfreezing from the head over one block more at a time to all, some epochs each."""
    stages = [*range(blocks + 1), blocks]
    careful = sum(epochs * (blocks + 2 * moving) for moving in stages)
    return careful / sum(blocks + 2 * moving + (epochs - 1) * 3 * moving for moving in stages)


BLOCKS, MINILM_BLOCKS = 12, 6
TOPS = {"bert": (1, 3, 6), "vit": (1, 3, 6), "clip": (1,)}
"""How many blocks train of which model."""
NEAR = 0.9
"""The part of an arithmetic ratio that is aimed at."""
EPOCHS = {"bert": 5, "vit": 5, "clip": 5}
EXCHANGED = ((16, 256), (64, 512), (128, 1024))
"""Batches of two processes together, and over how many rows; after each, gradients are exchanged."""
GRADUAL_EPOCHS = 2
"""Of each stage."""
LORA = {"method": "lora", "r": 8, "lora_alpha": 16, "target_modules": ["query", "value"]}


def _partial(name: str, top: int) -> Setup:
    rows, batch, data = {"bert": (48, 8, "sentences"), "vit": (16, 4, "pictures"), "clip": (48, 4, "pictures")}[name]
    adapt = {"method": "partial", "top": top}
    return Setup(f"{name}-{top}", name, rows, batch, EPOCHS[name], data, adapt, f"top {top}", rate=1e-4)


SETUPS = (
    Setup("full", "minilm", 400, 8, 2, sides=(OURS, EXAMPLE, CAREFUL, "products"), fewer={EXAMPLE: 128}),
    Setup(
        "probe", "minilm", 640, 16, 10, adapt="linear-probe", moves="head", sides=(OURS, CAREFUL, "embeddings"),
        whole=True, rate=1e-3,
    ),
    *(_partial(name, top) for name, tops in TOPS.items() for top in tops),
    Setup("gradual", "minilm", 64, 16, GRADUAL_EPOCHS * (MINILM_BLOCKS + 2), adapt="gradual", moves="gradual"),
    Setup("photos", "nano", 24, 8, 3, "photos"),
    Setup("memory-full", "minilm", 256, 32, 1, repeats=3),
    Setup("memory-lora", "minilm", 256, 32, 1, adapt=LORA, moves="lora", rate=5e-4, repeats=3),
    *(
        Setup(f"processes-{batch}", "minilm", rows, batch, 2, sides=("two", "one"), repeats=3)
        for batch, rows in EXCHANGED
    ),
    Setup("start", "minilm", 0, 1, 0, sides=("help", "mistake")),
)  # fmt: skip


def _of_blocks(name: str, top: int) -> list[Question]:
    setup, epochs = f"{name}-{top}", EPOCHS[name]
    model = {"bert": "BERT-base", "vit": "ViT-B/16", "clip": "the vision tower of CLIP ViT-B/32"}[name]
    later, whole = arithmetic(BLOCKS, top), arithmetic(BLOCKS, top, epochs)
    sides = (OURS, "rate"), (CAREFUL, "rate")
    long = (CAREFUL, "filled_seconds"), (OURS, "filled_seconds")
    says = f"{top} of 12 blocks of {model} train: rows a second after the first epoch"
    filled = f"The same, all {epochs} epochs, filling the cache included"
    return [
        Question(f"{says} (arithmetic: {later:.2f} ×)", setup, *sides, round(NEAR * later, 2)),
        Question(f"{filled} (arithmetic: {whole:.2f} ×)", setup, *long, round(NEAR * whole, 2)),
        Question(
            "The same with the trials of the cache, on so few rows", setup, (CAREFUL, "seconds"), (OURS, "seconds")
        ),
    ]


_GRADUAL = arithmetic_gradual(MINILM_BLOCKS, GRADUAL_EPOCHS)
QUESTIONS = (
    Question(
        "Full fine-tuning of MiniLM: rows a second against the defaults of transformers' example, padded to 128 tokens",
        "full", (OURS, "rate"), (EXAMPLE, "rate"), 4.5,
    ),
    Question("The same against the careful Trainer", "full", (OURS, "rate"), (CAREFUL, "rate"), 1.25),
    Question(
        "The same as a share of the limit: the model's matrix products alone, of real tokens only",
        "full", (OURS, "rate"), ("products", "rate"), 0.6,
    ),
    Question(
        "Linear probe, all 10 epochs, filling the cache included, against the careful Trainer with a frozen body",
        "probe", (CAREFUL, "seconds"), (OURS, "seconds"), 8.0,
    ),
    Question(
        "The same training against one forward pass over the rows to train on and to validate by",
        "probe", (OURS, "filled_seconds"), ("embeddings", "forward_seconds"), 1.3, at_most=True,
    ),
    Question(
        "The same with the trials of the cache, on so few rows",
        "probe", (OURS, "seconds"), ("embeddings", "forward_seconds"), at_most=True,
    ),
    Question(
        "The same, the whole process, from importing to the check of what loads, against the careful Trainer's",
        "probe", (CAREFUL, "whole_seconds"), (OURS, "whole_seconds"),
    ),
    Question(
        "The same, the whole process against scikit-learn's LogisticRegression on embeddings",
        "probe", ("embeddings", "whole_seconds"), (OURS, "whole_seconds"),
    ),
    *(question for name, tops in TOPS.items() for top in tops for question in _of_blocks(name, top)),
    Question(
        f"Gradual unfreezing of MiniLM, {GRADUAL_EPOCHS} epochs a stage, all of training "
        f"(arithmetic: {_GRADUAL:.2f} ×)",
        "gradual", (CAREFUL, "filled_seconds"), (OURS, "filled_seconds"), round(NEAR * _GRADUAL, 2),
    ),
    Question(
        "The same with the trials of the cache, one a stage, on so few rows",
        "gradual", (CAREFUL, "seconds"), (OURS, "seconds"),
    ),
    Question(
        "Pictures of 12 megapixels to vit-nano: rows a second after the first epoch, against decoding each time",
        "photos", (OURS, "rate"), (CAREFUL, "rate"), 5.0,
    ),
    Question(
        "Memory of full fine-tuning: growth at its peak against the careful Trainer's",
        "memory-full", (OURS, "peak"), (CAREFUL, "peak"), 0.8, at_most=True,
    ),
    Question(
        "Memory of LoRA, likewise", "memory-lora", (OURS, "peak"), (CAREFUL, "peak"), 0.8, at_most=True
    ),
    *(
        Question(
            f"Two processes against one, with one thread each, {batch} rows a step together: rows a second",
            f"processes-{batch}", ("two", "rate"), ("one", "rate"), 1.8,
        )
        for batch, _ in EXCHANGED
    ),
    Question("`hfadapt --help`", "start", ("help", "whole_seconds"), None, 0.5, at_most=True, unit="s"),
    Question(
        "A mistake in a recipe is told", "start", ("mistake", "whole_seconds"), None, 0.5, at_most=True, unit="s"
    ),
)  # fmt: skip


def chosen(names: list[str]) -> list[Setup]:
    """The trainings of these names, or whose names begin with them and a hyphen; all where none is named.

    Raises:
        SystemExit: there is none.
    """
    for name in names:
        if not any(_is(setup, name) for setup in SETUPS):
            raise SystemExit(f"There is no '{name}'. There are {', '.join(setup.name for setup in SETUPS)}.")
    return [setup for setup in SETUPS if not names or any(_is(setup, name) for name in names)]


def _is(setup: Setup, name: str) -> bool:
    return setup.name == name or setup.name.startswith(f"{name}-")
