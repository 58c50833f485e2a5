"""ResNet (He et al. 2015, https://arxiv.org/abs/1512.03385); its blocks are the stages."""

from hfadapt.backbones.base import Family

FAMILY = Family(
    model_types=("resnet",),
    modality="image",
    tiny={"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"},
)
