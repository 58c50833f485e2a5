"""MobileNetV2 (Sandler et al. 2018, https://arxiv.org/abs/1801.04381)."""

from hfadapt.backbones.base import Family

FAMILY = Family(
    model_types=("mobilenet_v2",),
    modality="image",
    # Sixteen blocks, whatever the width.
    tiny={"image_size": 32, "depth_multiplier": 0.1, "expand_ratio": 2.0, "output_stride": 8},
)
