"""DistilBERT (Sanh et al. 2019, https://arxiv.org/abs/1910.01108)."""

from hfadapt.backbones.base import Family

FAMILY = Family(
    model_types=("distilbert",),
    tiny={"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48, "max_position_embeddings": 66},
)
