"""ALBERT (Lan et al. 2019, https://arxiv.org/abs/1909.11942): one block, used again and again."""

from hfadapt.backbones.base import Family

FAMILY = Family(
    model_types=("albert",),
    tiny={
        "embedding_size": 16,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 66,
    },
)
