"""Low-rank adapters."""

from __future__ import annotations

from typing import ClassVar

from hfadapt.methods._peft import PeftAdaptation


class Lora(PeftAdaptation):
    """LoRA (Hu et al. 2021, https://arxiv.org/abs/2106.09685) on every linear layer of the blocks;
    where they have none, on their convolutions.

    When to use: large backbones, little memory, or many adapted models of one base. Needs a larger
    learning rate than `full`, 1e-4 to 5e-4. Compared with `full`: a hundredth of the optimizer state,
    nearly the same score. Keys are those of `peft.LoraConfig`: `r`, `lora_alpha`, `lora_dropout`,
    `use_dora`, `use_rslora`, `init_lora_weights`, `target_modules` …
    """

    config: ClassVar[str] = "peft.tuners.lora.config:LoraConfig"
