"""Swin (Liu et al. 2021, https://arxiv.org/abs/2103.14030) and its second version; its blocks are the stages."""

from hfadapt.backbones.base import Family

FAMILY = Family(
    model_types=("swin", "swinv2"),
    modality="image",
    tiny={
        "image_size": 32,
        "patch_size": 4,
        "embed_dim": 16,
        "depths": [2, 1],
        "num_heads": [2, 4],
        "window_size": 4,
    },
)
