"""Selectors: what each names, and what is said of those that name nothing."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hfadapt.backbones._selecting import as_slice, biases, norms, select
from hfadapt.backbones.base import anatomy, family_of
from hfadapt.errors import RecipeError

CLASSES = {"text": "AutoModelForSequenceClassification", "image": "AutoModelForImageClassification"}


@pytest.fixture(scope="module")
def made():
    """Makes a small model of a kind on the meta device, with its anatomy, once."""
    import torch
    import transformers

    known = {}

    def make(kind: str, auto_class: str = "", **config):
        family = family_of(kind)
        auto_class = auto_class or CLASSES.get(family.modality, "AutoModelForZeroShotImageClassification")
        key = kind, auto_class, repr(config)
        if key not in known:
            arguments = transformers.AutoConfig.for_model(kind, **{**family.tiny, **config})
            with torch.device("meta"):
                model = getattr(transformers, auto_class).from_config(arguments)
            known[key] = model, anatomy(model)
        return known[key]

    return make


def names_in(part: str, parts) -> set[str]:
    return {name for p in parts.parts if p.name == part for name in p.parameters}


@pytest.mark.parametrize(
    ("selector", "parts"),
    [
        ("head", ["head"]),
        ("embeddings", ["embeddings"]),
        ("after", ["after"]),
        ("blocks", ["blocks[0]", "blocks[1]"]),
        ("blocks[0]", ["blocks[0]"]),
        ("blocks[-1]", ["blocks[1]"]),
        ("blocks[-2]", ["blocks[0]"]),
        ("blocks[:1]", ["blocks[0]"]),
        ("blocks[ -1 : ]", ["blocks[1]"]),
        ("blocks[:]", ["blocks[0]", "blocks[1]"]),
        ("blocks[0:40]", ["blocks[0]", "blocks[1]"]),
        ("everything", ["embeddings", "blocks[0]", "blocks[1]", "after", "head"]),
        ("bert.encoder.layer.1.*", ["blocks[1]"]),
        ("*.layer.[01].*", ["blocks[0]", "blocks[1]"]),
    ],
)
def test_parts_of_one_tower(selector, parts, made):
    model, tree = made("bert")
    expected = set().union(*(names_in(part, tree) for part in parts))
    chosen = select(model, tree, selector, "adapt.train")
    assert expected
    assert set(chosen) == expected


@pytest.mark.parametrize(
    ("selector", "parts"),
    [
        ("head", ["head"]),
        ("vision", [f"vision.{part}" for part in ("embeddings", "blocks[0]", "blocks[1]", "after")]),
        ("text.everything", [f"text.{part}" for part in ("embeddings", "blocks[0]", "blocks[1]", "after")]),
        ("text.embeddings", ["text.embeddings"]),
        ("vision.after", ["vision.after"]),
        ("vision.blocks[-1:]", ["vision.blocks[1]"]),
        ("text.blocks", ["text.blocks[0]", "text.blocks[1]"]),
        ("blocks[0]", ["vision.blocks[0]", "text.blocks[0]"]),
        ("embeddings", ["vision.embeddings", "text.embeddings"]),
        ("after", ["vision.after", "text.after"]),
    ],
)
def test_parts_of_two_towers(selector, parts, made):
    model, tree = made("clip")
    expected = set().union(*(names_in(part, tree) for part in parts))
    assert expected
    assert set(select(model, tree, selector, "adapt.train")) == expected


def test_several_selectors_come_once_and_in_the_models_order(made):
    model, tree = made("bert")
    chosen = select(model, tree, ["head", "blocks[0]", "bert.encoder.layer.0.*", "embeddings"], "")
    parts = ("embeddings", "blocks[0]", "head")
    expected = [n for n, _ in model.named_parameters() if any(n in names_in(part, tree) for part in parts)]
    assert list(chosen) == expected


def test_biases_and_norms_of_bert(made):
    model, tree = made("bert")
    chosen = select(model, tree, "norms", "")
    assert len(chosen) == 2 * (1 + 2 * 2)
    assert all("LayerNorm" in name for name in chosen)
    chosen = select(model, tree, "biases", "")
    assert len(chosen) == 5 + 2 * 6 + 2  # the norms', six linear layers a block, pooler and classifier
    assert all(name.endswith(".bias") for name in chosen)


def test_biases_and_norms_of_a_tower(made):
    model, tree = made("clip")
    chosen = select(model, tree, "vision.norms", "")
    assert len(chosen) == 2 * (2 + 2 * 2)
    assert all(name.startswith("vision_model.") and "norm" in name.replace("layrnorm", "norm") for name in chosen)
    assert {*chosen, *select(model, tree, "text.norms", "")} == set(select(model, tree, "norms", ""))
    assert {n.partition(".")[0] for n in select(model, tree, "text.biases", "")} == {"text_model"}


@pytest.mark.parametrize(
    ("kind", "classes"),
    [
        ("vit", {"LayerNorm"}),
        ("llama", {"LlamaRMSNorm"}),
        ("modernbert", {"LayerNorm"}),
        ("resnet", {"BatchNorm2d"}),
        ("mobilenet_v2", {"BatchNorm2d"}),
        ("convnext", {"LayerNorm", "ConvNextLayerNorm"}),
    ],
)
def test_norms_are_told_by_their_class(kind, classes, made):
    model, _ = made(kind)
    owners = {type(model.get_submodule(name.rpartition(".")[0])).__name__ for name in norms(model)}
    assert owners and owners <= classes
    others = [n for n, m in model.named_modules() if type(m).__name__ in classes and list(m.parameters(recurse=False))]
    assert {name.rpartition(".")[0] for name in norms(model)} == set(others)


def test_a_group_norm_counts_and_its_children_do_not():
    from torch import nn

    class NormedPair(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain, self.inside = nn.Parameter(nn.init.ones_(nn.Linear(1, 1).weight)), nn.Linear(2, 2)

    model = nn.Sequential(nn.GroupNorm(1, 4), nn.Linear(4, 4), NormedPair())
    assert norms(model) == {"0.weight", "0.bias", "2.gain"}
    model = nn.MultiheadAttention(4, 1)
    assert biases(model) == {"in_proj_bias", "out_proj.bias"}


def test_what_the_model_does_not_use_is_never_selected(made):
    model, tree = made("clip", "AutoModelForImageClassification")
    assert tree.unused
    for selector in ("everything", "norms", "biases", "*"):
        assert not set(select(model, tree, selector, "")) & set(tree.unused)
    with pytest.raises(RecipeError, match="names no part and no parameter"):
        select(model, tree, tree.unused[0], "")


TREE = "The model: embeddings · blocks[0] … blocks[1] · after · head."
SAID = {
    "Head": "'Head' names no part and no parameter of the model. Did you mean 'head'?",
    "vision": f"'vision' names no part and no parameter of the model. {TREE}",
    "block[0]": "'block[0]' names no part and no parameter of the model. Did you mean 'blocks[0]'?",
    "bert.encoder": "'bert.encoder' names no part and no parameter of the model. Did you mean 'bert.encoder.*'?",
    "*.ATTENTION.*": f"'*.ATTENTION.*' names no part and no parameter of the model. {TREE}",
    "blocks[7]": f"'blocks[7]' holds no block: the backbone has 2 blocks. {TREE}",
    "blocks[-3]": f"'blocks[-3]' holds no block: the backbone has 2 blocks. {TREE}",
    "blocks[1:1]": f"'blocks[1:1]' holds no block: the backbone has 2 blocks. {TREE}",
    "blocks[top]": "'blocks[top]' is not a selection of blocks such as 'blocks[0]', 'blocks[4:6]' or 'blocks[-2:]'.",
    "blocks[0:2:1]": "'blocks[0:2:1]' is not a selection of blocks such as "
    "'blocks[0]', 'blocks[4:6]' or 'blocks[-2:]'.",
}


@pytest.mark.parametrize("selector", SAID)
def test_what_is_said_of_a_selector_that_names_nothing(selector, made):
    with pytest.raises(RecipeError) as refused:
        select(*made("bert"), selector, "adapt.train")
    assert str(refused.value) == f"adapt.train: {SAID[selector]}"


def test_what_is_said_where_there_are_two_towers(made):
    model, tree = made("clip")
    with pytest.raises(RecipeError) as refused:
        select(model, tree, ["vison.norms", "text.blocks[9]", "head", "vision.head", "vision."], "adapt.train")
    first, second, third, fourth = (str(problem) for problem in refused.value.problems)
    assert first.endswith("Did you mean 'vision.norms'?")
    assert "the text tower has 2 blocks. The model: vision.embeddings · vision.blocks[0] … vision.blocks[1]" in second
    assert "· vision.after · text.embeddings · text.blocks[0] … text.blocks[1] · text.after · head." in second
    assert third.endswith("The head belongs to no tower: write 'head'.")
    assert fourth.endswith("Did you mean 'vision'?")


@pytest.mark.parametrize(("kind", "selector"), [("llama", "vision.norms"), ("modernbert", "vision")])
def test_a_tower_needs_two(kind, selector, made):
    with pytest.raises(RecipeError, match="names no part"):
        select(*made(kind), selector, "")


def test_a_part_without_parameters_is_told(made):
    model, tree = made("clip", "AutoModelForImageClassification")
    with pytest.raises(RecipeError, match=r"'after' selects nothing: the model has none\. The model: embeddings"):
        select(model, tree, "after", "")


def test_a_block_must_be_in_each_tower(made):
    config = {"vision_config": {**family_of("clip").tiny["vision_config"], "num_hidden_layers": 4}}
    model, tree = made("clip", **config)
    assert [len(tower.blocks) for tower in tree.towers] == [4, 2]
    with pytest.raises(RecipeError, match="the text tower has 2 blocks"):
        select(model, tree, "blocks[3]", "")
    assert set(select(model, tree, "vision.blocks[3]", "")) == names_in("vision.blocks[3]", tree)


PIECES = st.sampled_from(
    ["blocks", "blocks[", "]", "[", ":", "-1", "0", "vision", "text", ".", "*", "?", "!", "head", "norms", "bias", "\n"]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(PIECES, max_size=6).map("".join) | st.text(max_size=30), st.sampled_from(["bert", "clip"]))
@example("blocks[" + "9" * 5000 + "]", "bert")
@example("blocks[[!]]", "bert")
@example("[z-a]*", "bert")
@example("blocks[0]\n", "clip")
def test_any_text_names_parameters_or_is_refused_in_a_line(made, selector, kind):
    model, tree = made(kind, "AutoModelForZeroShotImageClassification" if kind == "clip" else "")
    try:
        chosen = select(model, tree, selector, "adapt.train")
    except RecipeError as error:
        assert "\n" not in str(error)
        assert str(error).startswith("adapt.train: ")
    else:
        assert chosen and set(chosen) <= set(tree.everything)


@given(st.integers(-9, 9) | st.none(), st.integers(-9, 9) | st.none())
def test_slices_are_pythons(start, stop):
    text = f"{'' if start is None else start}:{'' if stop is None else stop}"
    assert as_slice(text) == slice(start, stop)
