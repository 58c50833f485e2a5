"""Low-rank changes of weights, biases and inputs."""

from __future__ import annotations

from typing import ClassVar

from hfadapt.methods._peft import PeftAdaptation


class GLoRA(PeftAdaptation):
    """Low-rank changes of weights, biases and inputs (GLoRA, Chavan et al. 2023, https://arxiv.org/abs/2306.07967).

    GLoRA, generalised LoRA: scales and shifts of the weights, the biases and the inputs of a layer, each low-rank, a
    vector, a number or none.

    When to use: where the layers need more than an added product. Compared with `lora`: holds it as a special case, for
    up to three times its parameters. Keys are those of `peft.GloraConfig`: `r`, `config_A_B`, `config_C`, `config_D_E`,
    `target_modules` …
    """

    config: ClassVar[str] = "peft.tuners.glora.config:GloraConfig"
