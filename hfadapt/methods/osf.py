"""The minor directions of every weight."""

from __future__ import annotations

from typing import ClassVar

from hfadapt.methods._peft import PeftAdaptation


class OSF(PeftAdaptation):
    """The minor directions of every weight (OSF, Nayak et al. 2025, https://arxiv.org/abs/2504.07097).

    OSF, orthogonal subspace fine-tuning: of the singular value decomposition of a weight the main directions stay, the
    others train, kept orthogonal to them.

    When to use: a backbone that must not forget, and memory for half of `full`. Compared with `full`: what mattered
    most in a weight cannot change; compared with `lora`: far more parameters. Keys are those of `peft.OSFConfig`:
    `effective_rank` (how many directions stay, a number or a share; half of them by default), `rank_pattern`,
    `target_modules` …
    """

    config: ClassVar[str] = "peft.tuners.osf.config:OSFConfig"
