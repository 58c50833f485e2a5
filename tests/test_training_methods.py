"""Methods in training: killed in every stage, on two processes, in parts of a batch, in half precision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conformance.promises import METHODS, adaptation, check_stillness

import hfadapt
from hfadapt.methods._around import Around
from hfadapt.methods._peft import PeftAdaptation
from hfadapt.methods.base import Adaptation
from hfadapt.recipe import Recipe
from hfadapt.training.stages import steps_of
from hfadapt.training.trainer import StageTrainer

HOOKS = ("terms", "companions")
ACCOMPANIED = [n for n, its in METHODS.items() if any(getattr(its, h) is not getattr(Adaptation, h) for h in HOOKS)]
"""Methods with something besides the weights to go on with, or with something added to the loss."""
STAGED = ["lp-ft", "gradual", "stages"]


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def dry(tmp_path_factory):
    """A BERT without dropout and with small weights, so that runs may be compared; see test_processes."""
    from conftest import TEXTS

    from hfadapt import tiny
    from hfadapt.noise import quiet

    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.02}
    with quiet():
        return tiny.checkpoint(tmp_path_factory.mktemp("dry"), "bert", TEXTS, **still)


@pytest.fixture(scope="module")
def teacher(dry, few, tmp_path_factory):
    """The folder of a run that `distill` may learn from."""
    made = hfadapt.plan(Recipe(**values(dry, few, "full", max_steps=2)))
    return hfadapt.adapt(made, tmp_path_factory.mktemp("teacher") / "run").path


def values(model: Path, data: Path, adapt: Any, **train: Any) -> dict[str, Any]:
    """A recipe that evaluates and saves every other step."""
    every = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    return {
        "task": "text-classification",
        "model": str(model),
        "data": {"path": str(data), "text": "text", "label": "label"},
        "adapt": adapt,
        # Some gradients are zero but for rounding (the bias of keys); with 1e-8 Adam would make steps of it.
        "train": {"learning_rate": 1e-3, "logging_steps": 1, "warmup_steps": 0, "adam_epsilon": 1e-4}
        | {"max_steps": 8, "per_device_train_batch_size": 8, **every, **train},
    }


def section(method: str, teacher: Path) -> dict[str, Any]:
    """The `adapt` section that tries a method, around one with two stages where it goes around any."""
    halves = {"method": "lp-ft", "probe": 0.5}
    inner = {"inner": halves} if issubclass(METHODS[method], Around) else halves if method == "lp-ft" else {}
    return adaptation(method, lambda: teacher) | inner


def weights(run: Any) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(Path(getattr(run, "path", run)) / "model" / "model.safetensors")


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def events(run: Any, kind: str) -> list[dict[str, Any]]:
    lines = (Path(getattr(run, "path", run)) / "log.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def middles(plan: hfadapt.Plan) -> dict[str, int]:
    """A step inside each stage, counted from the run's first: the third, where there has been a checkpoint."""
    lengths = steps_of(plan.stages, plan.steps)
    assert min(lengths) > 3
    return {stage.name: sum(lengths[:i]) + 3 for i, stage in enumerate(plan.stages)}


def killed_at(stage: str, step: int):
    """A listener that ends a run there."""

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "step" and (event["stage"], event["step"]) == (stage, step):
            raise Killed

    return listen


@pytest.mark.parametrize("method", [*STAGED, *ACCOMPANIED, "lora"])
def test_a_run_killed_inside_every_stage_goes_on_bit_for_bit(method, backbone, few, teacher, tmp_path):
    """Dropout included. The same run is killed again and again."""
    steps = {"gradual": 16, "stages": 12}.get(method, 8)
    model = teacher / "model" if method == "distill" else backbone("bert")
    made = hfadapt.plan(Recipe(**values(model, few, section(method, teacher), max_steps=steps, learning_rate=1e-2)))
    whole, place = hfadapt.adapt(made, tmp_path / "whole"), {"out": tmp_path / "cut"}
    kills = middles(made)
    assert len(kills) > 1 or method in {"lora", *(m for m in METHODS if issubclass(METHODS[m], PeftAdaptation))}
    for stage, step in kills.items():
        with pytest.raises(Killed):
            hfadapt.adapt(made, **place, listener=killed_at(stage, step))
        place = {"resume": tmp_path / "cut"}
    resumed = hfadapt.adapt(made, **place)
    assert distance(weights(whole), weights(resumed)) == 0.0
    for part in ("scores", "tried"):
        assert whole.scores.get(part) == resumed.scores.get(part)


def test_layers_that_had_been_unfrozen_stay_so_after_a_kill(backbone, few, tmp_path, monkeypatch):
    """What Lightning forgot (https://github.com/Lightning-AI/pytorch-lightning/issues/21901): that they move, that the
    optimizer holds them, and how they moved so far."""
    made = hfadapt.plan(Recipe(**values(backbone("bert"), few, "gradual", max_steps=16)))
    (*_, (last, step)) = middles(made).items()
    with pytest.raises(Killed):
        hfadapt.adapt(made, tmp_path / "cut", listener=killed_at(last, step))
    seen: list[set[str]] = []
    compute = StageTrainer.compute_loss

    def looking(trainer, model, *rest, **named):
        if model.training:
            check_stillness(trainer, model)
            states = {id(p) for p, state in trainer.optimizer.state.items() if state["exp_avg"].any()}
            seen.append({name for name, p in model.named_parameters() if id(p) in states})
        return compute(trainer, model, *rest, **named)

    monkeypatch.setattr(StageTrainer, "compute_loss", looking)
    resumed = hfadapt.adapt(made, resume=tmp_path / "cut")
    assert events(resumed, "stage")[-1]["stage"] == last
    joined = set(made.stages[-1].speeds) - set(made.stages[-2].speeds)
    assert joined and joined <= seen[0], "unfrozen in the last stage only, and known from before the kill"
    assert set(made.stages[-1].speeds) == seen[0]
    assert len(seen) == steps_of(made.stages, made.steps)[-1] - 2


@pytest.mark.parametrize("method", [*STAGED, *ACCOMPANIED, "lora"])
def test_the_weights_do_not_know_how_a_batch_was_divided(method, dry, few, teacher, tmp_path):
    """Eight rows at once, or four and four; what a method adds to the loss included."""
    made = {}
    for rows, accumulated in ((8, 1), (4, 2)):
        train = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": accumulated}
        train |= {"optim": "sgd", "learning_rate": 0.1, "max_steps": 6}
        plan = hfadapt.plan(Recipe(**values(dry, few, section(method, teacher), **train)))
        run = hfadapt.adapt(plan, tmp_path / f"{rows}")
        made[rows] = weights(run), [event["loss"] for event in events(run, "trained")]
    assert distance(made[8][0], made[4][0]) < 1e-5
    assert made[8][1] == pytest.approx(made[4][1], abs=1e-5)
    assert len(made[8][1]) >= 6


@pytest.mark.parametrize("method", ["full", "gradual", "lora", "partial"])
def test_activations_that_are_computed_again_give_the_same_weights(method, dry, few, teacher, tmp_path, recwarn):
    """Though nothing below the first block has a gradient."""
    made = {}
    for again in (False, True):
        it = values(dry, few, section(method, teacher), activation_checkpointing=again)
        made[again] = weights(hfadapt.adapt(hfadapt.plan(Recipe(**it)), tmp_path / str(again)))
    assert distance(made[False], made[True]) < 1e-6
    assert [str(w.message) for w in recwarn if "gradient" in str(w.message).lower()] == []


@pytest.mark.parametrize("method", ["full", "gradual", "partial", "lora"])
def test_half_precision_goes_nearly_the_same_way(method, dry, few, teacher, tmp_path):
    """Weights stay in float32; what is frozen stays as it is."""
    made, runs = {}, {}
    for half in (False, True):
        plan = hfadapt.plan(Recipe(**values(dry, few, section(method, teacher), bf16=half, learning_rate=1e-2)))
        runs[half] = hfadapt.adapt(plan, tmp_path / str(half))
        made[half] = weights(runs[half])
    assert {tensor.dtype for tensor in made[True].values()} == {torch.float32}
    assert 0.0 < distance(made[False], made[True]) < 0.1
    losses = [[event["loss"] for event in events(runs[half], "trained")] for half in (False, True)]
    assert losses[0] == pytest.approx(losses[1], abs=0.05)
    frozen = {name for name in made[False] if torch.equal(made[False][name], weights_of(dry).get(name, torch.zeros(0)))}
    assert all(torch.equal(made[True][name], made[False][name]) for name in frozen)
    assert bool(frozen) == (method in {"partial", "lora"})


def weights_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Under the names of a model with a head."""
    from safetensors.torch import load_file

    return {f"bert.{name}": tensor for name, tensor in load_file(checkpoint / "model.safetensors").items()}


@pytest.mark.parametrize("method", [*STAGED, "layerwise", "lora"])
def test_the_log_says_of_each_stage_what_the_plan_said(method, dry, few, teacher, tmp_path):
    made = hfadapt.plan(Recipe(**values(dry, few, section(method, teacher))))
    told = events(hfadapt.adapt(made, tmp_path / "run"), "stage")
    assert [event["stage"] for event in told] == [stage.name for stage in made.stages]
    assert [event["trainable"] for event in told] == [made.trainable(stage) for stage in made.stages]
    assert [event["steps"] for event in told] == steps_of(made.stages, made.steps)
    for event, stage in zip(told, made.stages, strict=True):
        base = stage.learning_rate or made.settled["learning_rate"]
        assert event["learning_rates"] == pytest.approx(sorted({base * speed for speed in stage.speeds.values()}))
