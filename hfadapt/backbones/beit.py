"""BEiT (Bao et al. 2021, https://arxiv.org/abs/2106.08254)."""

from hfadapt.backbones.base import Family

FAMILY = Family(
    model_types=("beit",),
    modality="image",
    tiny={
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "use_mask_token": True,
        "use_relative_position_bias": True,
    },
    # The pretraining hides patches behind it; a classifier sees them all.
    unused={"BeitForImageClassification": ("beit.embeddings.mask_token",)},
)
