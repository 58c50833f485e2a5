"""SigLIP (Zhai et al. 2023, https://arxiv.org/abs/2303.15343)."""

from hfadapt.backbones.base import Family

_SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}

FAMILY = Family(
    model_types=("siglip",),
    modality="image-text",
    tiny={
        "vision_config": _SIZE | {"image_size": 32, "patch_size": 8},
        "text_config": _SIZE | {"max_position_embeddings": 64},
    },
    # Where CLIP has projections beside the towers, SigLIP pools and projects inside them.
    head=("vision_model.head", "text_model.head"),
    # The classifier averages over the patches instead.
    unused={"SiglipForImageClassification": ("vision_model.head",)},
    fixed_length=True,
)
