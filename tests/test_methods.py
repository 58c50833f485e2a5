"""What moves when, and how fast, in the methods that add nothing to a model."""

from __future__ import annotations

import pytest

import hfadapt
from hfadapt.backbones.base import anatomy
from hfadapt.errors import HfadaptError, RecipeError
from hfadapt.noise import quiet
from hfadapt.reading import build, parse
from hfadapt.recipe import Recipe

TOWER = ("embeddings", "blocks[0]", "blocks[1]", "after")


@pytest.fixture(scope="module")
def models(backbone):
    """Small models with two blocks a tower, and their anatomies, by kind: `models("clip")`."""
    import transformers

    classes = {"clip": transformers.AutoModelForZeroShotImageClassification}
    known = {}

    def make(kind: str):
        if kind not in known:
            with quiet():
                auto = classes.get(kind, transformers.AutoModelForSequenceClassification)
                model = auto.from_pretrained(backbone(kind), device_map="meta")
            known[kind] = model, anatomy(model)
        return known[kind]

    return make


def method(text: str):
    """The adaptation that a line of a recipe describes."""
    head = "task: text-classification\nmodel: m\ndata: {path: p}\n"
    return build(parse(head + text, "my.yaml"), "my", text).adapt


def stages(text: str, made):
    return method(text).stages(*made)


def by_part(stage, parts) -> dict[str, float]:
    """The speed of each part of which all parameters move alike; others have all their speeds in a set."""
    found: dict[str, set[float | None]] = {}
    for part in parts.parts:
        found[part.name] = {stage.speeds.get(name) for name in part.parameters}
    assert stage.speeds.keys() <= {name for part in parts.parts for name in part.parameters}
    return {name: speeds.pop() if len(speeds) == 1 else speeds for name, speeds in found.items() if speeds != {None}}


class TestLayerwise:
    def test_speeds_of_one_tower(self, models):
        (stage,) = stages("adapt: {method: layerwise, layer_decay: 0.5, head_speed: 10}", models("bert"))
        expected = {"embeddings": 0.125, "blocks[0]": 0.25, "blocks[1]": 0.5, "after": 1.0, "head": 10.0}
        assert by_part(stage, models("bert")[1]) == expected
        assert (stage.share, stage.learning_rate) == (1.0, None)

    def test_the_default_is_that_of_beit(self, models):
        (stage,) = stages("adapt: layerwise", models("bert"))
        speeds = by_part(stage, models("bert")[1])
        assert (speeds["embeddings"], speeds["blocks[1]"], speeds["head"]) == (0.75**3, 0.75, 1.0)

    def test_each_tower_has_its_own_depth(self):
        import torch
        from transformers import AutoModelForZeroShotImageClassification, CLIPConfig

        from hfadapt.backbones.base import family_of

        tiny = dict(family_of("clip").tiny)
        tiny["vision_config"] = {**tiny["vision_config"], "num_hidden_layers": 4}
        with torch.device("meta"):
            model = AutoModelForZeroShotImageClassification.from_config(CLIPConfig(**tiny))
        parts = anatomy(model)
        (stage,) = stages("adapt: {method: layerwise, layer_decay: 0.5}", (model, parts))
        speeds = by_part(stage, parts)
        assert [speeds[f"vision.{part.name.partition('.')[2]}"] for part in parts.towers[0].parts] == [
            0.5**5,
            0.5**4,
            0.5**3,
            0.5**2,
            0.5,
            1.0,
        ]
        assert [speeds[f"text.{part}"] for part in TOWER] == [0.5**3, 0.5**2, 0.5, 1.0]
        assert speeds["head"] == 1.0


class TestGradual:
    def test_top_down(self, models):
        made = stages("adapt: {method: gradual, layer_decay: 0.5}", models("bert"))
        assert [stage.name for stage in made] == ["head", "top 1", "top 2", "all"]
        assert [stage.share for stage in made] == [0.25] * 4
        head = {"head": 1.0}
        top = {**head, "blocks[1]": 0.5, "after": 1.0}
        both = {**top, "blocks[0]": 0.25}
        expected = [head, top, both, {**both, "embeddings": 0.125}]
        assert [by_part(stage, models("bert")[1]) for stage in made] == expected

    def test_bottom_up(self, models):
        made = stages("adapt: {method: gradual, order: bottom-up}", models("bert"))
        assert [stage.name for stage in made] == ["head", "bottom 1", "bottom 2", "all"]
        parts = [set(by_part(stage, models("bert")[1])) for stage in made]
        assert parts[0] == {"head"}
        assert parts[1] - parts[0] == {"blocks[0]"}
        assert parts[2] - parts[1] == {"blocks[1]", "after"}
        assert parts[3] - parts[2] == {"embeddings"}
        assert all(set(stage.speeds.values()) == {1.0} for stage in made)

    @pytest.mark.parametrize("number", [2, 3])
    def test_blocks_at_once(self, number, models):
        made = stages(f"adapt: {{method: gradual, blocks_at_once: {number}}}", models("bert"))
        assert [stage.name for stage in made] == ["head", f"top {number}", "all"]
        assert set(by_part(made[1], models("bert")[1])) == {"head", "blocks[0]", "blocks[1]", "after"}

    def test_towers_join_from_the_top(self):
        """The text tower has two blocks and the vision tower three: its lowest joins alone."""
        import torch
        from transformers import AutoModelForZeroShotImageClassification, CLIPConfig

        from hfadapt.backbones.base import family_of

        tiny = dict(family_of("clip").tiny)
        tiny["vision_config"] = {**tiny["vision_config"], "num_hidden_layers": 3}
        with torch.device("meta"):
            model = AutoModelForZeroShotImageClassification.from_config(CLIPConfig(**tiny))
        parts = anatomy(model)
        made = stages("adapt: gradual", (model, parts))
        joined = [set(by_part(stage, parts)) for stage in made]
        assert joined[0] == {"head"}
        assert joined[1] - joined[0] == {"vision.blocks[2]", "vision.after", "text.blocks[1]", "text.after"}
        assert joined[2] - joined[1] == {"vision.blocks[1]", "text.blocks[0]"}
        assert joined[3] - joined[2] == {"vision.blocks[0]"}
        assert joined[4] - joined[3] == {"vision.embeddings", "text.embeddings"}
        assert len(joined) == 5

    def test_groups(self, models):
        made = stages("adapt: {method: gradual, groups: [[head, after], 'blocks[-1:]', [norms]]}", models("bert"))
        model, parts = models("bert")
        assert [stage.name for stage in made] == ["group 1", "group 2", "group 3"]
        assert set(by_part(made[0], parts)) == {"head", "after"}
        assert set(by_part(made[1], parts)) == {"head", "after", "blocks[1]"}
        added = made[2].speeds.keys() - made[1].speeds.keys()
        assert added == {n for n, _ in model.named_parameters() if "LayerNorm" in n and ".layer.1." not in n}

    def test_a_group_that_adds_nothing_is_refused(self, models):
        with pytest.raises(RecipeError) as refused:
            stages("adapt: {method: gradual, groups: [[everything], [head], [heads]]}", models("bert"))
        assert [problem.field for problem in refused.value.problems] == ["adapt.groups.1", "adapt.groups.2"]


class TestFewParameters:
    def test_bitfit(self, models):
        model, parts = models("bert")
        (stage,) = stages("adapt: bitfit", (model, parts))
        assert stage.speeds.keys() == {n for n, _ in model.named_parameters() if n.endswith(".bias")} | set(parts.head)
        assert "classifier.weight" in stage.speeds

    @pytest.mark.parametrize("kind", ["modernbert", "llama"])
    def test_bitfit_needs_biases(self, kind, models):
        with pytest.raises(RecipeError, match=r"adapt: The backbone has no biases, so .* Use 'norm' or 'lora' instead"):
            stages("adapt: bitfit", models(kind))

    @pytest.mark.parametrize(("kind", "number"), [("bert", 10), ("modernbert", 5), ("llama", 5)])
    def test_norm(self, kind, number, models):
        (stage,) = stages("adapt: norm", models(kind))
        names = stage.speeds.keys() - set(models(kind)[1].head)
        assert len(names) == number
        assert all("norm" in name.lower() for name in names)

    def test_surgical_trains_the_blocks_of_each_tower_and_the_head(self, models):
        for kind, expected in (
            ("bert", {"blocks[0]", "head"}),
            ("clip", {"vision.blocks[0]", "text.blocks[0]", "head"}),
        ):
            (stage,) = stages("adapt: {method: surgical, blocks: '0:1'}", models(kind))
            assert by_part(stage, models(kind)[1]) == dict.fromkeys(expected, 1.0)
        (stage,) = stages("adapt: {method: surgical, blocks: '-1:'}", models("bert"))
        assert set(by_part(stage, models("bert")[1])) == {"blocks[1]", "head"}

    def test_surgical_trains_what_selectors_name(self, models):
        (stage,) = stages("adapt: {method: surgical, train: [vision.embeddings, 'text.blocks[1]']}", models("clip"))
        assert set(by_part(stage, models("clip")[1])) == {"vision.embeddings", "text.blocks[1]", "head"}

    def test_surgical_refuses_what_is_not_there(self, models):
        with pytest.raises(RecipeError, match=r"adapt\.blocks: '5:' holds no block: the vision tower has 2 blocks\."):
            stages("adapt: {method: surgical, blocks: '5:'}", models("clip"))
        with pytest.raises(RecipeError, match=r"adapt\.train: 'audio' names no part"):
            stages("adapt: {method: surgical, train: audio}", models("clip"))


def test_lp_ft(models):
    probe, tune = stages("adapt: {method: lp-ft, probe: 0.25, probe_speed: 3}", models("bert"))
    assert by_part(probe, models("bert")[1]) == {"head": 3.0}
    assert by_part(tune, models("bert")[1]) == dict.fromkeys([*TOWER, "head"], 1.0)
    assert (probe.share, tune.share) == (0.25, 0.75)


def test_from_scratch_and_none(models):
    (stage,) = stages("adapt: from-scratch", models("bert"))
    assert by_part(stage, models("bert")[1]) == dict.fromkeys([*TOWER, "head"], 1.0)
    assert method("adapt: from-scratch").scratch
    assert not method("adapt: full").scratch
    assert stages("adapt: none", models("bert")) == []


class TestStages:
    def test_speeds_by_hand(self, models):
        text = """adapt:
  stages:
    - {name: probe, train: head, epochs: 1, learning_rate: 0.01}
    - train:
        vision: 0.5
        vision.blocks[-1]: 1
        "*.layers.1.mlp.*": 2
        head: 4
      epochs: 1.5
      layer_decay: 0.5
    - {train: [text, head], epochs: 2.5}
"""
        made = stages(text, models("clip"))
        _, parts = models("clip")
        assert [stage.name for stage in made] == ["probe", "stage 2", "stage 3"]
        assert [stage.share for stage in made] == [0.2, 0.3, 0.5]
        assert [stage.learning_rate for stage in made] == [0.01, None, None]
        assert by_part(made[0], parts) == {"head": 1.0}
        found = by_part(made[1], parts)
        assert found == {
            "vision.embeddings": 0.5 * 0.125,
            "vision.blocks[0]": 0.5 * 0.25,
            "vision.blocks[1]": {1 * 0.5, 2 * 0.5},
            "vision.after": 0.5,
            "text.blocks[1]": {None, 2 * 0.5},
            "head": 4.0,
        }
        feed = "encoder.layers.1.mlp.fc1.weight"
        assert made[1].speeds[f"vision_model.{feed}"] == made[1].speeds[f"text_model.{feed}"] == 1.0
        assert made[1].speeds["vision_model.encoder.layers.1.self_attn.q_proj.weight"] == 0.5
        assert set(by_part(made[2], parts)) == {*(f"text.{part}" for part in TOWER), "head"}

    def test_a_later_selector_wins(self, models):
        (stage,) = stages("adapt: {stages: [{train: {head: 2, everything: 3}}]}", models("bert"))
        assert by_part(stage, models("bert")[1]) == dict.fromkeys([*TOWER, "head"], 3.0)

    def test_epochs_settle_the_length_of_the_run(self):
        stages = "adapt: {stages: [{train: head, epochs: 1}, {train: everything, epochs: 1.5}]}"
        assert method(stages).arguments == {"num_train_epochs": 2.5, "max_steps": -1}
        assert method("adapt: {stages: [{train: head, share: 0.5}, {train: blocks, share: 0.5}]}").arguments == {}
        assert method("adapt: {stages: [{train: head}]}").arguments == {}

    @pytest.mark.parametrize(("length", "shares"), [("", [1 / 3] * 3), (", share: %s", [0.1, 0.2, 0.7])])
    def test_shares(self, length, shares, models):
        lines = [f"    - {{train: head{length % share if length else ''}}}" for share in shares]
        made = stages("\n".join(["adapt:", "  stages:", *lines]), models("bert"))
        assert [stage.share for stage in made] == pytest.approx(shares)

    def test_unknown_selectors_of_all_stages_are_told_at_once(self, models):
        with pytest.raises(RecipeError) as refused:
            stages("adapt: {stages: [{train: heads}, {train: [head, 'blocks[9]', vision]}]}", models("bert"))
        fields = [problem.field for problem in refused.value.problems]
        assert fields == ["adapt.stages.0.train", "adapt.stages.1.train", "adapt.stages.1.train"]

    @pytest.mark.parametrize("name", ["../up", "a/b", "a\\b", "", " ", ".", "end.", "a\nb", "é" * 51, "nul\0"])
    def test_names_that_no_folder_can_have(self, name):
        with pytest.raises(ValueError, match="cannot name a folder"):
            Recipe(task="text-classification", model="m", data={"path": "p"}, adapt={"stages": [stage_called(name)]})

    @pytest.mark.parametrize("name", ["a", "warm-up", "stage 1", "éclair 2.5", "_", "é" * 50])
    def test_names_that_a_folder_can_have(self, name, tmp_path):
        recipe = Recipe(
            task="text-classification", model="m", data={"path": "p"}, adapt={"stages": [stage_called(name)]}
        )
        (tmp_path / f"0-{name}").mkdir()
        assert recipe.adapt.given[0].name == name

    @pytest.mark.parametrize("text", ["adapt: {stages: [{train: head, name: x}, {train: {blocks: 0.5}}]}"])
    def test_it_is_written_as_it_is_read(self, text):
        adapt = method(text)
        recipe = Recipe(task="text-classification", model="m", data={"path": "p"}, adapt=adapt)
        assert "stages:" in recipe.dump()
        assert "given" not in recipe.dump()
        assert build(parse(recipe.dump(), "again.yaml"), "again", "").adapt == adapt


def stage_called(name: str) -> dict[str, str]:
    return {"train": "head", "name": name}


PLANNED = {
    "gradual": {"method": "gradual"},
    "layerwise": {"method": "layerwise"},
    "bitfit": {"method": "bitfit"},
    "norm": {"method": "norm"},
    "surgical": {"method": "surgical", "blocks": ":1"},
    "from-scratch": {"method": "from-scratch"},
    "stages": {"stages": [{"train": "head", "share": 0.25}, {"train": {"blocks": 0.5, "head": 1.0}, "share": 0.75}]},
}


def planned(folder, toy, adapt, **train):
    data = {"path": str(toy), "text": "text", "label": "label"}
    return hfadapt.plan(Recipe(task="text-classification", model=str(folder), data=data, adapt=adapt, train=train))


@pytest.mark.parametrize("name", PLANNED)
def test_a_recipe_with_each_method_plans(name, backbone, toy):
    made = planned(backbone("bert"), toy, PLANNED[name])
    assert made.stages
    assert made.recipe.adapt.name == name
    assert all(0 < made.trainable(stage) <= made.parameters for stage in made.stages)


def test_epochs_of_stages_are_the_epochs_of_the_plan(backbone, toy):
    made = planned(
        backbone("bert"),
        toy,
        {"stages": [{"train": "head", "epochs": 1}, {"train": "everything", "epochs": 4}]},
        per_device_train_batch_size=8,
    )
    whole = planned(backbone("bert"), toy, "full", per_device_train_batch_size=8, num_train_epochs=5)
    assert made.settled["num_train_epochs"] == 5
    assert made.steps == whole.steps
    assert [stage.share for stage in made.stages] == [0.2, 0.8]


def test_other_epochs_than_those_of_the_stages_are_refused(backbone, toy):
    with pytest.raises(HfadaptError, match="num_train_epochs"):
        planned(backbone("bert"), toy, {"stages": [{"train": "head", "epochs": 1}]}, num_train_epochs=5)


def test_none_plans_no_stage(backbone, toy):
    assert planned(backbone("bert"), toy, "none").stages == ()
