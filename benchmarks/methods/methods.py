"""What is measured: the ways to adapt, with their options and the learning rates that each is tried at.

Every method that hfadapt discovers is a way with its defaults, unless the table says how to call it; the table adds
variants. A method that somebody adds is measured without an edit here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hfadapt import discover
from hfadapt.methods._peft import PeftAdaptation
from hfadapt.methods.base import Adaptation

RATES: dict[str, dict[str, tuple[float, ...]]] = {
    "full": {"minilm": (1e-4, 3e-4, 1e-3), "vit-nano": (3e-4, 1e-3, 3e-3), "clip-nano": (3e-4, 1e-3, 3e-3)},
    "head": {"minilm": (1e-3, 5e-3, 2.5e-2), "vit-nano": (1e-2, 3e-2, 1e-1), "clip-nano": (1e-2, 3e-2, 1e-1)},
    "adapter": {"minilm": (5e-4, 2e-3, 8e-3), "vit-nano": (1e-3, 4e-3, 1.6e-2), "clip-nano": (1e-3, 4e-3, 1.6e-2)},
    "vector": {"minilm": (2e-3, 8e-3, 3e-2), "vit-nano": (1e-2, 3e-2, 1e-1), "clip-nano": (1e-2, 3e-2, 1e-1)},
    "bias": {"minilm": (1e-3, 4e-3, 1.6e-2), "vit-nano": (3e-3, 1e-2, 3e-2), "clip-nano": (3e-3, 1e-2, 3e-2)},
    "none": {"minilm": (1e-3,), "vit-nano": (1e-3,), "clip-nano": (1e-3,)},
}
"""By what trains, and by the backbone: everything, the head, low-rank matrices, a few numbers a layer, numbers
that are added, nothing."""

TEACHER = "{teacher}"
"""Stands for the model that `full` made of the same rows with the same seed."""
UNLABELLED = "{unlabelled}"
"""Stands for all training rows of the data set, without labels."""


@dataclass(frozen=True)
class Way:
    """A row of the table: a method with its options."""

    name: str
    adapt: Any
    """As under `adapt` in a recipe."""
    kind: str = "full"
    """A key of RATES."""
    task: Mapping[str, Any] = field(default_factory=dict)
    """What changes in the column's task."""
    train: Mapping[str, Any] = field(default_factory=dict)
    """Training arguments besides those of all ways; `eval_steps` below 1 is a share of the steps."""
    only: tuple[str, ...] = ()
    """The backbones for which it is meant; all where none is named."""
    main: bool = True
    """Whether it is measured with every seed before the others are."""
    speed: float = 1.0
    """The factor on the learning rates, where it wants others than its kind."""

    def rates(self, backbone: str) -> tuple[float, ...]:
        """The learning rates to try; unknown backbones have those of the smallest one."""
        grid = RATES[self.kind]
        return tuple(float(f"{rate * self.speed:.3g}") for rate in grid.get(backbone, grid["vit-nano"]))


LORA = {"method": "lora", "r": 8, "lora_alpha": 16}
CLIP = ("clip-nano",)
PAIRS = {"type": "image-text-contrastive"}
EVALUATED = {"eval_strategy": "steps", "eval_steps": 0.2}
THREE_STAGES = [
    {"name": "head", "train": {"head": 10.0}, "share": 0.2},
    {"name": "top", "train": ["head", "blocks[-3:]"], "share": 0.4},
    {"name": "all", "train": "everything", "share": 0.4, "layer_decay": 0.8},
]

TABLE = (
    Way("full", "full"),
    Way("linear-probe", "linear-probe", "head"),
    Way("lora", LORA, "adapter"),
    Way("lp-ft", "lp-ft"),
    Way("partial", {"method": "partial", "top": 2}, speed=3.0),
    Way("none", "none", "none", only=("nobody",)),
    Way("from-scratch", "from-scratch"),
    Way("bitfit", "bitfit", "bias"),
    Way("norm", "norm", "vector"),
    Way("layerwise", "layerwise", speed=3.0),
    Way("gradual", "gradual"),
    Way("surgical: low blocks", {"method": "surgical", "blocks": "0:2"}),
    Way("surgical: middle blocks", {"method": "surgical", "blocks": "2:4"}, speed=3.0, main=False),
    Way("stages: head, top, all", {"stages": THREE_STAGES}),
    Way("l2-sp", "l2-sp"),
    Way("anchor", "anchor"),
    Way("ema", {"method": "ema", "decay": 0.95}),
    Way("soup", "soup", train=EVALUATED),
    Way("wise-ft of lp-ft", {"method": "wise-ft", "inner": "lp-ft"}),
    Way("distill from full", {"method": "distill", "teacher": TEACHER}),
    Way("pretrain", {"method": "pretrain", "path": UNLABELLED, "epochs": 1.0, "batch_size": 32}),
    Way("prompt-tuning", "prompt-tuning", "vector", only=("minilm",)),
    Way("lora + dora", {**LORA, "use_dora": True}, "adapter"),
    Way("lora + pissa", {**LORA, "init_lora_weights": "pissa"}, "adapter", speed=0.25, main=False),
    Way("lora + rslora", {**LORA, "use_rslora": True}, "adapter", main=False),
    Way("lora + loraplus", {**LORA, "loraplus_lr_ratio": 8.0}, "adapter", speed=0.25, main=False),
    Way("lora + olora", {**LORA, "init_lora_weights": "olora"}, "adapter", main=False, speed=0.25),
    Way("lora r 32", {"method": "lora", "r": 32, "lora_alpha": 64}, "adapter", main=False),
    Way("wise-ft of lora", {"method": "wise-ft", "inner": LORA}, "adapter", main=False),
    Way("ia3", "ia3", "vector"),
    Way("adalora", "adalora", "adapter", speed=4.0),
    Way("ln-tuning", "ln-tuning", "vector", main=False),
    Way("beft", "beft", "bias", main=False),
    Way("road", "road", "vector", main=False),
    Way("vera", "vera", "vector", main=False),
    Way("pvera", "pvera", "vector", main=False),
    Way("tinylora", "tinylora", "bias", main=False),
    Way("unilora", "unilora", "vector", main=False),
    Way("vblora", "vblora", "vector", main=False),
    Way("fourierft", "fourierft", "vector", main=False),
    Way("waveft", "waveft", "vector", main=False, speed=0.1),
    Way("c3a", "c3a", "vector", main=False),
    Way("osf", "osf", "full", main=False, speed=4.0),
    Way("boft", "boft", "adapter", main=False, speed=4.0),
    Way("hira", "hira", "adapter", main=False, speed=4.0),
    Way("loha", "loha", "adapter", main=False, speed=4.0),
    Way("lokr", "lokr", "adapter", main=False, speed=4.0),
    Way("supertuning", "supertuning", "adapter", main=False, speed=4.0),
    Way("oft", "oft", "adapter", main=False, speed=0.25),
    Way("shira", "shira", "adapter", main=False, speed=0.25),
    Way("delora", "delora", "adapter", main=False, speed=0.1),
    Way("zero-shot", "none", "none", {"head": "zero-shot"}, only=CLIP),
    Way("tip-adapter", "none", "none", {"head": "tip-adapter"}, only=CLIP),
    Way("full from a zero-shot head", "full", "full", {"head": "zero-shot"}, only=CLIP),
    Way("full from a tip-adapter head", "full", "full", {"head": "tip-adapter"}, only=CLIP),
    Way("wise-ft from a zero-shot head", "wise-ft", "full", {"head": "zero-shot"}, only=CLIP),
    Way("zero-shot, both towers", "none", "none", PAIRS, only=CLIP),
    Way("flyp", "full", "full", PAIRS, only=CLIP),
    Way("flyp + wise-ft", "wise-ft", "full", PAIRS, only=CLIP),
    Way("flyp + lora", LORA, "adapter", PAIRS, only=CLIP),
    Way("coop", "coop", "bias", {**PAIRS, "templates": ["{}."]}, only=CLIP),
    Way("clip-adapter", "clip-adapter", "bias", PAIRS, only=CLIP),
)


def ways() -> list[Way]:
    """All ways, those of the table first."""
    found = discover.variants("hfadapt.methods", Adaptation)
    told = [way for way in TABLE if all(name in found for name in _methods(way.adapt)) and way.only != ("nobody",)]
    called = {name for way in TABLE for name in _methods(way.adapt)[:1]}
    rest = [
        Way(name, name, "adapter" if issubclass(kind, PeftAdaptation) else "full", main=False)
        for name, kind in found.items()
        if name not in called
    ]
    return [*told, *rest]


def _methods(adapt: Any) -> list[str]:
    """The names of the method and of those that it goes around."""
    if isinstance(adapt, str):
        return [adapt]
    inner = list(_methods(adapt["inner"])) if "inner" in adapt else []
    return [adapt.get("method", "stages"), *inner]
