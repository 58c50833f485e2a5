"""Adapters of peft: what works with which backbone, and the keys that are ours."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

import hfadapt
from hfadapt import judging
from hfadapt.backbones.base import anatomy
from hfadapt.errors import HfadaptError
from hfadapt.methods.base import Stage
from hfadapt.noise import quiet
from hfadapt.recipe import Recipe

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "methods" / "peft_table.py"
SPEC = importlib.util.spec_from_file_location("peft_table", SCRIPT)
table = importlib.util.module_from_spec(SPEC)
sys.modules["peft_table"] = table
SPEC.loader.exec_module(table)

COMMITTED = json.loads(table.TABLE.read_text(encoding="utf-8"))
ADAPTERS = table.adapters()
OTHERS = ("distilbert", "clip", "resnet", "modernbert")
CASES = [(name, kind) for i, name in enumerate(ADAPTERS) for kind in ("bert", "vit", OTHERS[i % len(OTHERS)])]


def made(name: str, **options):
    return ADAPTERS[name](**options)


def wrapped(backbone, kind: str, method):
    model, parts = table.loaded(backbone(kind))
    return method.wrap(model, parts), parts


def reloaded(backbone, kind: str, method, model, folder: Path):
    import peft

    method.keep(model, folder)
    with quiet():
        return peft.PeftModel.from_pretrained(table.loaded(backbone(kind))[0], folder / "adapter")


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_table_is_true(name, kind, backbone):
    with quiet():
        assert table.verdict(made(name), backbone(kind)) == COMMITTED["methods"][name][kind]


def test_the_table_is_whole():
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    assert COMMITTED["methods"].keys() == ADAPTERS.keys()
    assert all(sorted(cells) == table.kinds() for cells in COMMITTED["methods"].values())
    types = {kind.lower().replace("_", "-") for kind in PEFT_TYPE_TO_CONFIG_MAPPING}
    assert types == ADAPTERS.keys() | COMMITTED["left out"].keys()
    assert len(ADAPTERS) > 25
    for cells in COMMITTED["methods"].values():
        assert {cells["bert"], cells["vit"], cells["clip"], cells["distilbert"]} == {"works"}


def test_an_adapter_without_convolutions_says_so_while_planning(backbone):
    with pytest.raises(
        HfadaptError, match="adapt: vera adapts linear layers only, and the blocks of 'resnet' hold none"
    ):
        wrapped(backbone, "resnet", made("vera"))


def test_refusals_of_peft_are_one_sentence(backbone):
    with pytest.raises(HfadaptError, match=r"^adapt: peft refuses this: .*factor of the input size.*\.$"):
        wrapped(backbone, "bert", made("c3a", block_size=7))


@pytest.mark.parametrize("kind", ["bert", "clip", "resnet"])
@pytest.mark.parametrize("name", ["lora", "ln-tuning"])
def test_layers_limits_the_blocks(name, kind, backbone):
    model, parts = wrapped(backbone, kind, made(name, layers="-1:"))
    (stage,) = made(name, layers="-1:").stages(model, parts)
    last = {tower.blocks[-1].name for tower in parts.towers}
    assert {parts.part_of(moving) for moving in stage.speeds} == {*last, "head"}


def test_layers_are_those_of_each_tower(backbone):
    from transformers import AutoModelForZeroShotImageClassification as Auto

    method = made("ia3", layers=":1")
    with quiet():
        plain = Auto.from_pretrained(backbone("clip"))
    parts = anatomy(plain)
    model = method.wrap(plain, parts)
    (stage,) = method.stages(model, parts)
    assert {parts.part_of(moving) for moving in stage.speeds} == {"vision.blocks[0]", "text.blocks[0]", "head"}
    assert {"visual_projection", "text_projection"} == set(model.peft_config["default"].modules_to_save)


def test_layers_that_hold_nothing(backbone):
    with pytest.raises(HfadaptError, match=r"adapt.layers: '5:' holds no block: the backbone has 2 blocks\."):
        wrapped(backbone, "bert", made("lora", layers="5:"))


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("lora", {"layers": "-1:", "target_modules": ["query"]}, "Give 'layers' or 'target_modules', not both."),
        ("lora", {"layers": "two"}, "'two' is not a slice of blocks such as"),
        ("lora", {"layer": "-1:"}, "LoraConfig has no 'layer'. Did you mean 'layers'?"),
        ("lora", {"loraplus_ratio": 4.0}, "Did you mean 'loraplus_lr_ratio'?"),
        ("lora", {"loraplus_lr_ratio": 0.0}, "greater than 0"),
        ("lora", {"init_lora_weights": "eva"}, "'eva' starts from a pass over data"),
        ("lora", {"kasa_config": {}}, "hfadapt does not train this variant"),
        ("adalora", {"total_step": 100}, "hfadapt takes the number of steps from the training."),
        ("adalora", {"target_r": 12}, "target_r 12 should be above 0 and below init_r 12"),
        ("vera", {"d_intial": 0.1}, "VeraConfig has no 'd_intial'. Did you mean 'd_initial'?"),
        ("boft", {"boft_n_butterfly_factor": 2}, "other machines could not load the adapter"),
        ("ia3", {"feedforward_modules": 3}, "it should be"),
    ],
)
def test_wrong_keys(name, options, says):
    with pytest.raises(ValidationError) as error:
        made(name, **options)
    assert says in str(error.value)


def test_what_is_not_given_is_not_written():
    assert made("lora").model_dump() == "lora"
    assert made("lora", r=4).model_dump() == {"method": "lora", "r": 4}
    assert made("lora", layers=":1", loraplus_lr_ratio=4.0).model_dump()["loraplus_lr_ratio"] == 4.0


def test_lora_plus_is_a_speed_of_the_b_matrices(backbone):
    method = made("lora", loraplus_lr_ratio=16.0)
    model, parts = wrapped(backbone, "bert", method)
    (stage,) = method.stages(model, parts)
    assert {name for name, speed in stage.speeds.items() if speed == 16.0} == {
        n for n in stage.speeds if ".lora_B." in n
    }
    assert set(stage.speeds.values()) == {1.0, 16.0}


def test_ia3_scales_the_inputs_of_layers_that_narrow(backbone):
    model, _ = wrapped(backbone, "bert", made("ia3"))
    assert {name.rpartition("layer.")[2][2:] for name in model.peft_config["default"].feedforward_modules} == {
        "output.dense"
    }
    model, _ = wrapped(backbone, "bert", made("ia3", target_modules=["key", "intermediate.dense"]))
    assert model.peft_config["default"].feedforward_modules == set()


@pytest.mark.parametrize(
    "options",
    [
        {"use_rslora": True},
        {"use_dora": True},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "pissa_niter_2"},
        {"init_lora_weights": "olora"},
        {"init_lora_weights": "pissa", "use_dora": True},
        {"init_lora_weights": "olora", "use_rslora": True, "rank_pattern": {"query": 2}, "alpha_pattern": {"key": 3}},
        {"init_lora_weights": "orthogonal", "r": 4},
        {"init_lora_weights": "mica"},
        {"target_modules": ["word_embeddings", "query"]},
        {"bias": "lora_only"},
    ],
    ids=str,
)
def test_relatives_of_lora(options, backbone):
    with quiet():
        assert list(table.complaints(made("lora", **options), backbone("bert"))) == []


def test_an_adapter_that_took_weights_along_is_saved_beside_the_whole_ones(backbone, tmp_path):
    """Without decomposing the base a second time, which is not exact, and random with `niter`."""
    method = made("lora", init_lora_weights="pissa_niter_2", r=3)
    model, parts = wrapped(backbone, "vit", method)
    table.steps(model, method.stages(model, parts)[0].speeds)
    again = reloaded(backbone, "vit", method, model, tmp_path)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["init_lora_weights"] is True
    assert config["r"] == 6
    assert model.peft_config["default"].r == 3
    assert torch.allclose(table.answers(again), table.answers(model), atol=1e-5)


def allocation(model, method, parts, steps: int):
    (companion,) = method.companions(model, parts, None)
    (stage,) = method.stages(model, parts)
    companion.began(model, stage, steps)
    return companion, stage


def train(model, stage: Stage, optimizer, companion, term, wanted) -> None:
    """Steps of AdaLoRA with what goes along."""
    for step in wanted:
        logits = model.train()(**table.batch(model)).logits
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0, 1]))
        (loss + term({}, None)).backward()
        optimizer.step()
        companion.stepped(model, step)
        optimizer.zero_grad()


def ranks(model) -> int:
    return sum(int(p.count_nonzero()) for name, p in model.named_parameters() if ".lora_E." in name)


def test_adalora_ends_with_the_ranks_that_were_asked_for(backbone):
    method = made("adalora", init_r=4, target_r=2, tinit=1, tfinal=3)
    model, parts = wrapped(backbone, "bert", method)
    layers = sum(".lora_E." in name for name, _ in model.named_parameters())
    companion, stage = allocation(model, method, parts, 10)
    (term,) = method.terms(model, parts, None)
    optimizer = torch.optim.Adam([model.get_parameter(name) for name in stage.speeds], lr=0.01)
    train(model, stage, optimizer, companion, term, [1])
    assert ranks(model) == 4 * layers
    train(model, stage, optimizer, companion, term, range(2, 8))
    assert ranks(model) == 2 * layers
    left = dict(companion.pattern)
    train(model, stage, optimizer, companion, term, range(8, 11))
    assert ranks(model) == 2 * layers
    assert companion.pattern == left
    assert len({sum(kept) for kept in left.values()}) > 1


@pytest.mark.parametrize("cut", [3, 8])
def test_adalora_goes_on_from_its_state(cut, backbone, tmp_path):
    method = made("adalora", init_r=4, target_r=2)
    whole, parts = wrapped(backbone, "bert", method)
    companion, stage = allocation(whole, method, parts, 10)
    (term,) = method.terms(whole, parts, None)
    speeds = {name: whole.get_parameter(name) for name in stage.speeds}
    optimizer = torch.optim.Adam(speeds.values(), lr=0.01)
    train(whole, stage, optimizer, companion, term, range(1, cut + 1))
    torch.save(
        {"its": companion.state(), "model": whole.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "s"
    )
    torch.manual_seed(1)
    train(whole, stage, optimizer, companion, term, range(cut + 1, 11))
    other, parts = wrapped(backbone, "bert", method)
    fresh, stage = allocation(other, method, parts, 10)
    saved = torch.load(tmp_path / "s", weights_only=True)
    other.load_state_dict(saved["model"])
    fresh.restore(saved["its"])
    (term,) = method.terms(other, parts, None)
    optimizer = torch.optim.Adam([other.get_parameter(name) for name in stage.speeds], lr=0.01)
    optimizer.load_state_dict(saved["optimizer"])
    torch.manual_seed(1)
    train(other, stage, optimizer, fresh, term, range(cut + 1, 11))
    assert all(torch.equal(p, whole.get_parameter(name)) for name, p in other.named_parameters())


def test_adalora_pulls_singular_vectors_apart(backbone):
    method = made("adalora", init_r=4, target_r=2, orth_reg_weight=2.0)
    model, parts = wrapped(backbone, "bert", method)
    (term,) = method.terms(model, parts, None)
    value = term({}, None)
    # Vectors of 0.02 a piece are as good as zero: the distance is that of zero from the identity, 2 for rank 4.
    assert float(value.detach()) == pytest.approx(2.0 * 2.0, rel=0.02)
    value.backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if ".lora_A." in name or ".lora_B." in name)


def test_adalora_needs_steps(backbone):
    method = made("adalora", tinit=5, tfinal=5)
    model, parts = wrapped(backbone, "bert", method)
    with pytest.raises(HfadaptError, match="Of 10 steps none is left in which ranks shrink: tinit is 5, tfinal 5"):
        allocation(model, method, parts, 10)


class Killed(Exception):
    pass


def recipe(model: Path, data: Path, adapt: dict, **train) -> Recipe:
    train = {"max_steps": 6, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "logging_steps": 1, **train}
    source = {"path": str(data), "text": "text", "label": "label"}
    return Recipe(task="text-classification", model=str(model), data=source, adapt=adapt, train=train)


@pytest.fixture
def undrawn(monkeypatch):
    """Charts and baselines take half of so small a run."""
    monkeypatch.setattr(judging, "draw", lambda *_: None)
    monkeypatch.setattr(judging, "compare", lambda *_: {})


@pytest.mark.parametrize(
    ("adapt", "blocks"),
    [
        ({"method": "lora", "layers": "-1:", "use_dora": True, "r": 2, "loraplus_lr_ratio": 8.0}, {"1"}),
        ({"method": "adalora", "init_r": 4, "target_r": 2}, {"0", "1"}),
    ],
    ids=["dora", "adalora"],
)
def test_from_recipe_to_folder(adapt, blocks, backbone, toy, tmp_path, undrawn):
    import peft
    from transformers import AutoModelForSequenceClassification as Auto

    often = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    it = recipe(backbone("bert"), toy, adapt, **often)
    run = hfadapt.adapt(hfadapt.plan(it), tmp_path / "whole")
    with quiet():
        merged = Auto.from_pretrained(run.model).eval()
        base = Auto.from_pretrained(backbone("bert"), config=merged.config)
        start = table.states(base)
        beside = peft.PeftModel.from_pretrained(base, run.path / "adapter").eval()
    assert torch.allclose(table.answers(merged), table.answers(beside), atol=1e-5)
    moved = [n for n, p in merged.named_parameters() if n.startswith("bert.encoder") and not torch.equal(p, start[n])]
    assert {name.split(".")[3] for name in moved} == blocks
    assert all(name.endswith("weight") and "LayerNorm" not in name for name in moved)


def test_adalora_resumes_bit_for_bit(backbone, toy, tmp_path, undrawn):
    often = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "no"}
    it = recipe(backbone("bert"), toy, {"method": "adalora", "init_r": 4, "target_r": 2}, **often)
    whole = hfadapt.adapt(hfadapt.plan(it), tmp_path / "whole")

    def kill(event):
        if event["event"] == "step" and event["step"] == 5:
            raise Killed

    with pytest.raises(Killed):
        hfadapt.adapt(hfadapt.plan(it), tmp_path / "cut", listener=kill)
    resumed = hfadapt.adapt(hfadapt.plan(it), resume=tmp_path / "cut")
    one, other = (load_file(run.model / "model.safetensors") for run in (whole, resumed))
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
