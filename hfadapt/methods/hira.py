"""Low-rank products that scale the weights."""

from __future__ import annotations

from typing import ClassVar

from hfadapt.methods._peft import PeftAdaptation


class HiRA(PeftAdaptation):
    """Low-rank products that scale the weights (HiRA, Huang et al. 2025, https://openreview.net/forum?id=TwJrTz9cRS).

    HiRA, Hadamard high-rank adaptation: the change of a weight is the weight itself, entry by entry times a low-rank
    product.

    When to use: where low rank is what holds `lora` back. Compared with `lora`: the same parameters, and a change of
    the rank of the weight; an entry that is zero stays so. Keys are those of `peft.HiraConfig`: `r`, `hira_dropout`,
    `target_modules` …
    """

    config: ClassVar[str] = "peft.tuners.hira.config:HiraConfig"
    convolutions: ClassVar[bool] = True
