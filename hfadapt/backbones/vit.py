"""ViT (Dosovitskiy et al. 2020, https://arxiv.org/abs/2010.11929)."""

from hfadapt.backbones.base import Family

FAMILY = Family(
    model_types=("vit",),
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
