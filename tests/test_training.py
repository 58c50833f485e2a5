"""The engine: exact loss, groups, stages, resume bit for bit, no hidden NaN."""

from __future__ import annotations

import gc
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import hfadapt
from hfadapt.data.labels import Labels
from hfadapt.errors import HfadaptError, RunError
from hfadapt.methods.base import Stage
from hfadapt.recipe import Recipe
from hfadapt.training.stages import steps_of


def recipe(model: Path, toy: Path, **sections) -> Recipe:
    """A recipe on the toy data; `train` is merged into settings that suit it."""
    train = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        **sections.pop("train", {}),
    }
    values = {
        "task": "text-classification",
        "model": str(model),
        "data": {"path": str(toy), "text": "text", "label": "label"},
        **sections,
    }
    return Recipe(train=train, **values)


def weights(run) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(run.model / "model.safetensors")


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[k] - other[k]).abs().max()) for k in one)


def events(run, kind: str) -> list[dict]:
    lines = (run.path / "log.jsonl").read_text().splitlines()
    return [e for e in map(json.loads, lines) if e["event"] == kind]


def carry_out(it: Recipe, folder: Path, **options):
    return hfadapt.adapt(hfadapt.plan(it), folder, **options)


STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture(scope="module")
def dry(tmp_path_factory):
    """A BERT without dropout, so that runs may be compared weight by weight."""
    from conftest import TEXTS

    from hfadapt import tiny
    from hfadapt.noise import quiet

    with quiet():
        return tiny.checkpoint(tmp_path_factory.mktemp("dry"), "bert", TEXTS, **STILL)


def test_learns_and_the_log_tells(dry, toy, tmp_path):
    run = carry_out(recipe(dry, toy, train={"num_train_epochs": 12, "learning_rate": 5e-3}), tmp_path / "run")
    losses = [e["loss"] for e in events(run, "trained")]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    assert not run.checkpoints.exists()
    scores = run.scores
    assert scores["scores"]["test"]["accuracy"]["value"] > 0.8
    assert set(scores["baselines"]) == {"majority", "tfidf"}
    assert {p.name for p in run.path.iterdir()} == {
        "recipe.yaml",
        "plan.yaml",
        "log.jsonl",
        "scores.json",
        "README.md",
        "confusion.png",
        "contract.json",
        "contract.safetensors",
        "training.png",
        "model",
    }


KINDS = {
    "single": {},
    "multi": {"data": {"label": "tags", "label_separator": "|"}},
    "regression": {"data": {"label": "stars"}, "task": {"type": "text-classification", "problem_type": "regression"}},
    "weighted": {"task": {"type": "text-classification", "loss": {"class_weights": {"good": 3.0}, "focal": 2.0}}},
}


def test_the_garbage_collector_passes_over_what_was_there_before(dry, toy, tmp_path):
    gc.unfreeze()
    seen = []
    made = hfadapt.plan(recipe(dry, toy, train={"max_steps": 1}))
    hfadapt.adapt(made, tmp_path / "one", listener=lambda event: seen.append((event["event"], gc.get_freeze_count())))
    assert dict(seen)["step"] > 100_000 and dict(seen)["end"] == 0 == gc.get_freeze_count()
    gc.freeze()
    try:
        hfadapt.adapt(made, tmp_path / "two")
        assert gc.get_freeze_count(), "who froze something else keeps it"
    finally:
        gc.unfreeze()


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_does_not_know_how_a_batch_was_divided(kind, dry, toy, tmp_path):
    """Nor do the weights: 8 rows at once, or 4 and 4, or 2, 2, 2 and 2, with a ragged last batch."""
    sections = {k: dict(v) for k, v in KINDS[kind].items()}
    data = {"path": str(toy), "text": "text", "label": "label", "validation": 0.2, "test": 0.2} | sections.pop(
        "data", {}
    )
    made = {}
    for rows, accumulated in ((8, 1), (4, 2), (2, 4)):
        train = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": accumulated, "optim": "sgd"}
        train |= {"learning_rate": 0.1, "load_best_model_at_end": False}
        it = recipe(dry, toy, data=data, train=train, **sections)
        run = carry_out(it, tmp_path / f"{rows}x{accumulated}")
        made[rows] = (weights(run), [e["loss"] for e in events(run, "trained")], events(run, "evaluated")[-1])
    for rows in (4, 2):
        assert distance(made[8][0], made[rows][0]) < 1e-6
        assert made[8][1] == pytest.approx(made[rows][1], abs=1e-5)
    untrained = weights_of(dry)
    assert distance({k: v for k, v in made[8][0].items() if k in untrained}, untrained) > 1e-4, "something moved"


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {f"bert.{k}": v for k, v in load_file(folder / "model.safetensors").items()}


def test_the_evaluated_loss_is_exact_for_any_batch_size(dry, toy, tmp_path):
    found = set()
    for rows in (1, 3, 32):
        it = recipe(dry, toy, train={"max_steps": 1, "per_device_eval_batch_size": rows})
        found.add(round(events(carry_out(it, tmp_path / str(rows)), "evaluated")[-1]["scores"]["loss"], 5))
    assert len(found) == 1


METHODS = {
    "full": "full",
    "linear-probe": "linear-probe",
    "partial": {"method": "partial", "top": 1},
    "slice": {"method": "partial", "blocks": "0:1"},
    "lora": {"method": "lora", "r": 2},
    "lp-ft": {"method": "lp-ft", "probe": 0.5},
}


@pytest.mark.parametrize("method", METHODS)
def test_exactly_what_the_plan_says_moves(method, dry, toy, tmp_path):
    made = hfadapt.plan(recipe(dry, toy, adapt=METHODS[method], train={"load_best_model_at_end": False}))
    run = hfadapt.adapt(made, tmp_path / "run")
    before, after = weights_of(dry), weights(run)
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    planned = {made.anatomy.part_of(name) for stage in made.stages for name in stage.speeds} - {"head"}
    assert {made.anatomy.part_of(name) for name in changed} == planned
    if method != "lora":
        # The gradient of the keys' bias is zero but for rounding, and of unused positions zero.
        exempt = {"key.bias", "position_embeddings.weight", "token_type_embeddings.weight"}
        promised = {name for stage in made.stages for name in stage.speeds if name in before}
        assert promised - changed <= {n for n in before if n.endswith(tuple(exempt))}
        assert changed <= promised


def test_speeds_and_decay_make_the_groups(dry, toy):
    from transformers import AutoModelForSequenceClassification, TrainingArguments

    from hfadapt.noise import quiet
    from hfadapt.tasks.text_classification import TextClassification
    from hfadapt.training.trainer import ExactLoss, StageTrainer

    with quiet():
        model = AutoModelForSequenceClassification.from_pretrained(dry)
    speeds = {n: 0.5 if n.startswith("bert") else 2.0 for n, _ in model.named_parameters()}
    arguments = TrainingArguments(
        output_dir="unused", learning_rate=1e-3, weight_decay=0.1, use_cpu=True, report_to="none"
    )
    loss = ExactLoss(TextClassification(), Labels("label", ("bad", "good")))
    trainer = StageTrainer(model=model, args=arguments, loss=loss, speeds=speeds, strategy="random", seed=0)
    optimizer = trainer.create_optimizer()
    found = {(g["lr"], g["weight_decay"]) for g in optimizer.param_groups}
    assert found == {(5e-4, 0.1), (5e-4, 0.0), (2e-3, 0.1), (2e-3, 0.0)}
    names = {id(p): n for n, p in model.named_parameters()}
    still = {names[id(p)] for g in optimizer.param_groups if g["weight_decay"] == 0 for p in g["params"]}
    assert "bert.embeddings.position_embeddings.weight" in still
    assert all("LayerNorm" in n or n.endswith("bias") or "position" in n for n in still)
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(names)


def test_moments_go_on_into_the_next_stage(dry, toy, tmp_path, monkeypatch):
    """The head's Adam state at the start of the second stage is what the first left."""
    from hfadapt.training import stages
    from hfadapt.training.trainer import StageTrainer

    seen: list[dict] = []
    create = StageTrainer.create_optimizer

    def spy(self, model=None):
        made = create(self, model)
        names = {id(p): n for n, p in self.model.named_parameters()}
        seen.append(
            {names[id(p)]: {k: torch.as_tensor(v).clone() for k, v in s.items()} for p, s in made.state.items()}
        )
        return made

    monkeypatch.setattr(StageTrainer, "create_optimizer", spy)
    assert stages.StageTrainer is StageTrainer
    carry_out(recipe(dry, toy, adapt={"method": "lp-ft", "probe": 0.5}), tmp_path / "run")
    first, second = seen[0], seen[-1]
    assert not first
    assert set(second) == {"classifier.weight", "classifier.bias"}
    assert float(second["classifier.weight"]["step"]) > 0


def test_a_frozen_body_has_no_dropout(backbone, toy, tmp_path):
    """Twice the same features: a probe on a body with dropout 0.1 trains like one on a body without."""
    from hfadapt.training.freezing import only

    it = recipe(backbone("bert"), toy, adapt="linear-probe")
    made = hfadapt.plan(it)
    from hfadapt.adapting import load_model
    from hfadapt.noise import quiet

    with quiet():
        model, _ = load_model(made)
    inputs = made.processor(["some words here"], return_tensors="pt")
    with only(model, made.stages[0].speeds):
        model.train()
        one, two = (model.bert(**inputs).pooler_output for _ in range(2))
    assert torch.equal(one, two)


def test_a_model_that_was_divided_is_rebuilt_between_stages(backbone, toy, tmp_path, monkeypatch):
    """FSDP and DeepSpeed need devices; what follows their stages is tried here on a whole model."""
    from hfadapt.training import stages

    it = recipe(backbone("bert"), toy, adapt={"method": "lp-ft", "probe": 0.5}, train={"optim": "sgd"})
    whole = carry_out(it, tmp_path / "whole")
    monkeypatch.setattr(stages, "_is_divided", lambda trainer: True)
    rebuilt = carry_out(it, tmp_path / "rebuilt")
    assert distance(weights(whole), weights(rebuilt)) == 0.0


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    ("method", "step"),
    [*itertools.product(["full"], [1, 9]), *itertools.product(["lp-ft"], [2, 7]), ("lora", 5)],
)
def test_a_run_that_was_killed_goes_on_bit_for_bit(method, step, backbone, toy, tmp_path):
    """With dropout on; killed in the first stage, right before the second, and in the second."""
    train = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "max_steps": 12}
    it = recipe(backbone("bert"), toy, adapt=METHODS[method], train=train)
    whole = carry_out(it, tmp_path / "whole")

    def kill(event):
        if event["event"] == "step" and event["step"] == step:
            raise Killed

    with pytest.raises(Killed):
        carry_out(it, tmp_path / "cut", listener=kill)
    assert not (tmp_path / "cut" / "scores.json").exists()
    resumed = carry_out(it, None, resume=tmp_path / "cut")
    assert distance(weights(whole), weights(resumed)) == 0.0
    assert whole.scores["scores"] == resumed.scores["scores"]


def test_a_torn_checkpoint_is_passed_over(backbone, toy, tmp_path):
    train = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "max_steps": 8}
    it = recipe(backbone("bert"), toy, train=train)
    whole = carry_out(it, tmp_path / "whole")

    def kill(event):
        if event["event"] == "step" and event["step"] == 7:
            raise Killed

    with pytest.raises(Killed):
        carry_out(it, tmp_path / "cut", listener=kill)
    last = tmp_path / "cut" / "checkpoints" / "0-full" / "checkpoint-6"
    (last / "optimizer.pt").write_bytes(b"torn")
    resumed = carry_out(it, None, resume=tmp_path / "cut")
    assert distance(weights(whole), weights(resumed)) == 0.0
    shutil.rmtree(tmp_path / "cut")


def test_a_loss_that_is_no_number_stops_the_run(dry, toy, tmp_path):
    train = {"learning_rate": 1e30, "max_grad_norm": 0.0, "optim": "sgd", "warmup_steps": 0}
    with pytest.raises(RunError, match=r"not a finite number any more .* Lower train.learning_rate"):
        carry_out(recipe(dry, toy, train=train), tmp_path / "run")
    assert not (tmp_path / "run" / "scores.json").exists()


def test_rows_that_training_drops_are_judged(dry, toy, tmp_path):
    train = {"dataloader_drop_last": True, "per_device_train_batch_size": 20, "num_train_epochs": 1}
    done = carry_out(recipe(dry, toy, train=train), tmp_path / "run")
    assert len(events(done, "evaluated")) == 1  # Its few rows fill no batch.
    rows = len(hfadapt.plan(recipe(dry, toy)).data.splits["train"])
    assert rows % 20
    assert events(done, "trained")[-1]["step"] == rows // 20


def test_early_stopping_ends_a_run_that_gets_no_better(dry, toy, tmp_path):
    train = {"num_train_epochs": 30, "learning_rate": 1e-9, "early_stopping_patience": 2}
    run = carry_out(recipe(dry, toy, train=train), tmp_path / "run")
    assert len(events(run, "evaluated")) == 3


def test_the_best_checkpoint_is_the_one_that_stays(dry, toy, tmp_path):
    """A run whose learning rate ruins the model after a good start ends with the good start."""
    train = {"num_train_epochs": 10, "learning_rate": 5e-3, "metric_for_best_model": "accuracy"}
    run = carry_out(recipe(dry, toy, train=train), tmp_path / "run")
    best = max(e["scores"]["accuracy"] for e in events(run, "evaluated"))
    assert run.scores["scores"]["validation"]["accuracy"]["value"] == pytest.approx(best)


def test_another_run_is_never_overwritten(dry, toy, tmp_path, monkeypatch):
    it = recipe(dry, toy, train={"max_steps": 1})
    run = carry_out(it, tmp_path / "run")
    with pytest.raises(RunError, match="exists already"):
        carry_out(it, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    names = [carry_out(it, None).path.name for _ in range(2)]
    assert names == ["recipe", "recipe-2"]
    assert run.done


@pytest.mark.parametrize(
    ("shares", "total", "steps"),
    [
        ([1.0], 7, [7]),
        ([0.3, 0.7], 10, [3, 7]),
        ([0.01, 0.99], 10, [1, 9]),
        ([0.99, 0.01], 10, [9, 1]),
        ([1 / 3] * 3, 10, [3, 4, 3]),
    ],
)
def test_stages_share_the_steps(shares, total, steps):
    assert steps_of([Stage(str(i), {}, share) for i, share in enumerate(shares)], total) == steps


def test_shares_that_do_not_sum():
    with pytest.raises(HfadaptError, match=r"sum to 0\.8"):
        steps_of([Stage("a", {}, 0.3), Stage("b", {}, 0.5)], 10)
    with pytest.raises(HfadaptError, match="too few"):
        steps_of([Stage("a", {}, 0.3), Stage("b", {}, 0.7)], 1)
