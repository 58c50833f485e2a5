"""RoBERTa (Liu et al. 2019, https://arxiv.org/abs/1907.11692) and its multilingual kin XLM-R."""

from hfadapt.backbones.base import Family

FAMILY = Family(
    model_types=(
        "roberta",
        "xlm-roberta",
    ),
    tiny={
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 66,
    },
    positions_offset=2,  # positions start behind the padding token's id, 1
)
