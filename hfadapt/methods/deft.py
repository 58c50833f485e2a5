"""A direction taken out of a weight, and one put in."""

from __future__ import annotations

from typing import ClassVar

from hfadapt.methods._peft import PeftAdaptation


class DEFT(PeftAdaptation):
    """A direction taken out of a weight, and one put in (DEFT, Kumar et al. 2025, https://arxiv.org/abs/2509.22793).

    A low-rank projection is taken out of a weight, and a low-rank matrix put into the same directions.

    When to use: new pictures or texts that replace, rather than extend, what the backbone knew. Compared with `lora`:
    as many parameters at the same `r`, and can forget as well as add. Keys are those of `peft.DeftConfig`: `r`,
    `alpha`, `decomposition_method`, `para`, `deft_dropout`, `target_modules` …
    """

    config: ClassVar[str] = "peft.tuners.deft.config:DeftConfig"
