"""ConvNeXt (Liu et al. 2022, https://arxiv.org/abs/2201.03545) and its second version; its blocks are the stages."""

from hfadapt.backbones.base import Family

FAMILY = Family(
    model_types=("convnext", "convnextv2"),
    modality="image",
    tiny={
        "image_size": 32,
        "patch_size": 4,
        "num_stages": 2,
        "hidden_sizes": [16, 32],
        "depths": [1, 1],
        # The usual 1e-6 hides what the blocks compute until they have trained for long.
        "layer_scale_init_value": 1.0,
    },
)
