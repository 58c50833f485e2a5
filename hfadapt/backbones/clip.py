"""CLIP (Radford et al. 2021, https://arxiv.org/abs/2103.00020)."""

from hfadapt.backbones.base import Family

_SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}

FAMILY = Family(
    model_types=("clip",),
    modality="image-text",
    tiny={
        "vision_config": _SIZE | {"image_size": 32, "patch_size": 8},
        "text_config": _SIZE | {"max_position_embeddings": 64},
        "projection_dim": 16,
    },
    # The classifier averages over the patches before this norm.
    unused={"CLIPForImageClassification": ("vision_model.post_layernorm",)},
)
