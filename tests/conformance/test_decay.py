"""Weight decay × families: it pulls at the weights of linear layers, convolutions and vocabularies, and at no other."""

from __future__ import annotations

import pytest
from torch import nn
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification, TrainingArguments
from transformers.pytorch_utils import Conv1D

from hfadapt.backbones.base import anatomy
from hfadapt.data.labels import Labels
from hfadapt.noise import quiet
from hfadapt.tasks.text_classification import TextClassification
from hfadapt.training.trainer import ExactLoss, StageTrainer

from . import promises

KINDS = {kind: f.modality for f in promises.FAMILIES for kind in f.model_types}
AUTO = {"text": AutoModelForSequenceClassification, "image": AutoModelForImageClassification}
TOKENS = {"word_embeddings", "token_type_embeddings", "embed_tokens", "tok_embeddings", "token_embedding", "wte"}
"""What kinds call the embeddings of their vocabularies; all others are of positions."""


def decayed(model: nn.Module) -> set[str]:
    """The parameters that an optimizer of ours pulls to zero."""
    arguments = TrainingArguments(
        output_dir="unused", learning_rate=1e-3, weight_decay=0.1, use_cpu=True, report_to="none"
    )
    loss = ExactLoss(TextClassification(), Labels("label", ("bad", "good")))
    speeds = dict.fromkeys(anatomy(model).everything, 1.0)
    trainer = StageTrainer(model=model, args=arguments, loss=loss, speeds=speeds, strategy="random", seed=0)
    pulled = {id(p) for g in trainer.create_optimizer().param_groups if g["weight_decay"] for p in g["params"]}
    return {name for name, p in model.named_parameters() if id(p) in pulled}


def weights(model: nn.Module) -> set[str]:
    """The parameters that may decay, told by what their modules are: no norm, bias, scale, position or token of the
    model's own, whatever they are called."""
    found = set()
    for name, module in model.named_modules():
        if "position" in name:
            # Layers that make positions, as Swin V2's.
            continue
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd | Conv1D):
            found.add(f"{name}.weight")
        elif isinstance(module, nn.MultiheadAttention):
            found.add(f"{name}.in_proj_weight")
        elif isinstance(module, nn.Embedding) and name.rpartition(".")[2] in TOKENS:
            found.add(f"{name}.weight")
    return found & {name for name, p in model.named_parameters() if p.ndim > 1}


@pytest.mark.parametrize("kind", KINDS)
def test_what_decays(kind, backbone):
    auto = AUTO["text" if KINDS[kind] == "text" else "image"]
    with quiet():
        model = auto.from_pretrained(backbone(kind), num_labels=3)
    ours, theirs = decayed(model), weights(model)
    assert ours - theirs == set()
    assert theirs - ours == set()
    assert len(ours) > 3


@pytest.mark.parametrize("kind", [kind for kind, modality in KINDS.items() if modality == "image-text"])
def test_what_decays_of_two_towers(kind, backbone):
    import transformers

    with quiet():
        model = transformers.AutoModelForZeroShotImageClassification.from_pretrained(backbone(kind))
    assert decayed(model) == weights(model)
