"""DeiT (Touvron et al. 2020, https://arxiv.org/abs/2012.12877)."""

from hfadapt.backbones.base import Family

FAMILY = Family(
    model_types=("deit",),
    modality="image",
    tiny={
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
    },
)
