"""Llama (Touvron et al. 2023, https://arxiv.org/abs/2302.13971)."""

from hfadapt.backbones.base import Family

FAMILY = Family(
    model_types=("llama",),
    tiny={
        "num_key_value_heads": 2,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 66,
    },
)
