"""Changes of weights that a small network computes from them."""

from __future__ import annotations

from typing import ClassVar

from hfadapt.methods._peft import PeftAdaptation


class PEANuT(PeftAdaptation):
    """Changes of weights that a small network computes from them (PEANuT, https://arxiv.org/abs/2410.01870).

    The change of a weight is what a narrow network, not a linear one, makes of the weight.

    When to use: where changes depend on the weights in ways that low rank cannot say. Compared with `lora`: as many
    parameters at the same `r` and `depth: 0`; slower, for the network runs over every weight each step. Keys are those
    of `peft.PeanutConfig`: `r`, `depth`, `act_fn`, `scaling`, `target_modules` …
    """

    config: ClassVar[str] = "peft.tuners.peanut.config:PeanutConfig"
