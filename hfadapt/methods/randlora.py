"""Sums of scaled random products of full rank."""

from __future__ import annotations

from typing import ClassVar

from hfadapt.methods._peft import PeftAdaptation


class RandLoRA(PeftAdaptation):
    """Sums of scaled random products of full rank (RandLoRA, Albert et al. 2025, https://arxiv.org/abs/2502.00987).

    The change of a weight is a sum of frozen random low-rank products with learnt scales, enough of them for full rank.

    When to use: where low rank is what holds `lora` back, as in models of pictures and texts. Compared with `lora`:
    changes of full rank at a like number of parameters; more computation a step. A smaller `r` means more products,
    hence more parameters. Keys are those of `peft.RandLoraConfig`: `r`, `randlora_alpha`, `sparse`, `randlora_dropout`,
    `target_modules` …
    """

    config: ClassVar[str] = "peft.tuners.randlora.config:RandLoraConfig"
