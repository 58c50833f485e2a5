"""BERT (Devlin et al. 2018, https://arxiv.org/abs/1810.04805); MiniLM is of its kind."""

from hfadapt.backbones.base import Family

FAMILY = Family(
    model_types=("bert",),
    tiny={
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 66,
    },
)
