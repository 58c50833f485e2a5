"""Low-rank adapters made from one bank of vectors."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from hfadapt.methods._peft import PeftAdaptation, divisor, widths

if TYPE_CHECKING:
    from torch import nn


class VBLoRA(PeftAdaptation):
    """Low-rank adapters made from one bank of vectors (VBLoRA, Li et al. 2024, https://arxiv.org/abs/2405.15179).

    The matrices of all LoRAs are mixed from pieces of one learnt bank of vectors.

    When to use: very small adapters of deep backbones, where layers can share. Needs a large learning rate for the bank
    and the logits, 1e-3 to 1e-2. Compared with `lora`: half of its parameters; starts a little beside the backbone.
    Keys are those of `peft.VBLoRAConfig`: `r`, `num_vectors`, `vector_length`, `topk`, `target_modules` …
    `vector_length` is at most 256 and divides the widths of every layer where it is not given.
    """

    config: ClassVar[str] = "peft.tuners.vblora.config:VBLoRAConfig"
    rate: ClassVar[float | None] = 5e-3
    unserved: ClassVar[Mapping[str, str]] = {
        "save_only_topk_weights": "Checkpoints would not hold all that training goes on from."
    }

    def derived(self, model: nn.Module, targets: Collection[str]) -> dict[str, Any]:
        """A length that divides inputs and outputs of every layer."""
        return {"vector_length": divisor([n for both in widths(model, targets) for n in both], 256)}
