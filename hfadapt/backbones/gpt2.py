"""GPT-2 (Radford et al. 2019)."""

from hfadapt.backbones.base import Family

FAMILY = Family(
    model_types=("gpt2",),
    tiny={"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 66},
)
