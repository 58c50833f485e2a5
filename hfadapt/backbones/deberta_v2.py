"""DeBERTa v2 and v3 (He et al. 2020, https://arxiv.org/abs/2006.03654)."""

from hfadapt.backbones.base import Family

FAMILY = Family(
    model_types=("deberta-v2",),
    tiny={
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 66,
        "relative_attention": True,
        "position_buckets": 8,
        "pos_att_type": ["c2p", "p2c"],
        "norm_rel_ebd": "layer_norm",
    },
    # The table of relative positions feeds every block, though it is registered after them.
    embeddings=("encoder.rel_embeddings", "encoder.LayerNorm", "encoder.conv"),
)
