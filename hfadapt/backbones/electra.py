"""ELECTRA (Clark et al. 2020, https://arxiv.org/abs/2003.10555)."""

from hfadapt.backbones.base import Family

FAMILY = Family(
    model_types=("electra",),
    tiny={
        "embedding_size": 16,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 66,
    },
)
