"""ModernBERT (Warner et al. 2024, https://arxiv.org/abs/2412.13663); Granite's encoders are of its kind."""

from hfadapt.backbones.base import Family

FAMILY = Family(
    model_types=("modernbert",),
    tiny={
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 66,
    },
)
