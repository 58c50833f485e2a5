"""A grid of small low-rank adapters a layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from hfadapt.methods._peft import PeftAdaptation


class GraLoRA(PeftAdaptation):
    """A grid of small low-rank adapters a layer (GraLoRA, Jung et al. 2025, https://arxiv.org/abs/2505.20355).

    GraLoRA, granular low-rank adaptation: a weight is cut into `gralora_k` times `gralora_k` blocks, each with a LoRA
    of its own.

    When to use: ranks of 32 and more, where `lora` stops to gain. Compared with `lora`: as many parameters at the same
    `r`, and `gralora_k` times the rank. Keys are those of `peft.GraloraConfig`: `r`, `alpha`, `gralora_k` (divides `r`
    and the widths of every layer), `hybrid_r`, `gralora_dropout`, `target_modules` …
    """

    config: ClassVar[str] = "peft.tuners.gralora.config:GraloraConfig"
    unfit: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("convnext", "convnextv2", "swinv2"), "the inputs of its linear layers are pictures, peft awaits sequences"
    )
