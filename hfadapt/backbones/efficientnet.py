"""EfficientNet (Tan and Le 2019, https://arxiv.org/abs/1905.11946)."""

from hfadapt.backbones.base import Family

FAMILY = Family(
    model_types=("efficientnet",),
    modality="image",
    tiny={
        "image_size": 32,
        "width_coefficient": 0.25,
        "depth_coefficient": 1.0,
        "kernel_sizes": [3, 3],
        "in_channels": [32, 32],
        "out_channels": [32, 64],
        "strides": [1, 2],
        "num_block_repeats": [1, 2],
        "expand_ratios": [1, 2],
        "hidden_dim": 320,
    },
)
