"""DINOv2 (Oquab et al. 2023, https://arxiv.org/abs/2304.07193), with registers too (https://arxiv.org/abs/2309.16588)."""

from hfadapt.backbones.base import Family

FAMILY = Family(
    model_types=("dinov2", "dinov2_with_registers"),
    modality="image",
    tiny={
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "mlp_ratio": 2,
    },
    # The pretraining hides patches behind it; a classifier sees them all.
    unused={
        "Dinov2ForImageClassification": ("dinov2.embeddings.mask_token",),
        "Dinov2WithRegistersForImageClassification": ("dinov2_with_registers.embeddings.mask_token",),
    },
)
