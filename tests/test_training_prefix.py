"""What lies below all that trains, found on every family: kept tensors give the model's own answers."""

from __future__ import annotations

import pytest
import torch
from conftest import TEXTS

from hfadapt import discover
from hfadapt.backbones.base import Family, anatomy
from hfadapt.methods.base import Adaptation
from hfadapt.noise import quiet
from hfadapt.training import prefix
from hfadapt.training.freezing import only

FAMILIES = {family.model_types[0]: family for family in discover.facts("hfadapt.backbones", Family).values()}
METHODS = discover.variants("hfadapt.methods", Adaptation)
PAIRED = "AutoModelForZeroShotImageClassification"
AUTO = {"text": ["AutoModelForSequenceClassification"], "image": ["AutoModelForImageClassification"]}
CASES = [
    (kind, auto)
    for kind, family in sorted(FAMILIES.items())
    for auto in AUTO.get(family.modality, [*AUTO["image"], PAIRED])
]
TOLD = [TEXTS[6], TEXTS[0], TEXTS[2], "good"]


def loaded(backbone, kind, auto):
    """A model, its anatomy, and a function from places of rows to a batch."""
    import transformers

    folder = backbone(kind, "AutoModelForCausalLM" if kind in {"gpt2", "llama"} else "AutoModel")
    with quiet():
        options = {} if auto == PAIRED else {"num_labels": 3}
        model, found = getattr(transformers, auto).from_pretrained(folder, output_loading_info=True, **options)
        reads_texts = FAMILIES[kind].modality == "text" or auto == PAIRED
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder) if reads_texts else None
    if tokenizer is not None and tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer is not None and getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    # As planning does. A cache of keys is taken apart or not, by what else this process has imported.
    model.config.use_cache = False
    pictures = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(7))

    def batch(places):
        made = {} if FAMILIES[kind].modality == "text" else {"pixel_values": pictures[places]}
        if tokenizer is not None:
            fixed = "attention_mask" not in tokenizer.model_input_names
            padding = "max_length" if fixed else True
            told = [TOLD[i] for i in places]
            made |= dict(tokenizer(told, padding=padding, truncation=True, return_tensors="pt"))
        return made

    return model, anatomy(model, found["missing_keys"]), batch


def test_there_is_something_to_test():
    assert len(CASES) >= 22


@pytest.mark.parametrize(("kind", "auto"), CASES)
def test_kept_tensors_give_the_same_answers(kind, auto, backbone):
    model, parts, batch = loaded(backbone, kind, auto)
    reads = ("image_embeds", "text_embeds") if auto == PAIRED else ("logits",)
    for method in (METHODS["linear-probe"](), METHODS["partial"](top=1)):
        (stage,) = method.stages(model, parts)
        with only(model, stage.speeds):
            found = prefix.find(model, [batch([0, 1, 2, 3]), batch([2, 3])], reads)
            assert not isinstance(found, str), found
            assert not prefix.differs(found, batch([0, 1, 2, 3]), batch([3, 2]), [3, 2], reads)
            spoilt = prefix.Prefix(found.model, found.specs, found.parts)
            spoilt.kept = dict(list(found.kept.items())[1:])
            assert prefix.differs(spoilt, batch([0, 1, 2, 3]), batch([3, 2]), [3, 2], reads)


def test_a_module_that_is_called_again_on_what_moves_is_left_to_compute(backbone):
    """The one block of ALBERT, its query adapted: what the first call reads is frozen, and then no more."""
    model, parts, batch = loaded(backbone, "albert", AUTO["text"][0])
    method = METHODS["lora"](r=2)
    wrapped = method.wrap(model, parts)
    (stage,) = method.stages(wrapped, parts)
    with only(wrapped, stage.speeds):
        found = prefix.find(wrapped, [batch([0, 1, 2, 3]), batch([2, 3])], ("logits",))
        assert not isinstance(found, str)
        assert not prefix.differs(found, batch([0, 1, 2, 3]), batch([3, 2]), [3, 2], ("logits",))
    assert not any("base_layer" in name for name in found.modules)


def test_nothing_lies_below_where_everything_moves(backbone):
    model, parts, batch = loaded(backbone, "bert", AUTO["text"][0])
    with only(model, parts.everything):
        found = prefix.find(model, [batch([0, 1, 2, 3]), batch([2, 3])], ("logits",))
    assert found == "nothing lies below what trains"
