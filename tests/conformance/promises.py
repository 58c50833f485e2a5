"""What is promised of every family by every method, whatever the task; the tests of each modality ask it."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import hfadapt
from hfadapt import adapting, discover, judging
from hfadapt.backbones.base import Family
from hfadapt.folder import Run
from hfadapt.methods.base import Adaptation
from hfadapt.noise import quiet
from hfadapt.planning import Plan
from hfadapt.recipe import Recipe

FAMILIES = list(discover.facts("hfadapt.backbones", Family).values())
METHODS = discover.variants("hfadapt.methods", Adaptation)
OPTIONS = {"partial": {"top": 1}, "lora": {"r": 2}}
TRAIN = {
    "per_device_train_batch_size": 16,
    "logging_steps": 1,
    "warmup_steps": 0,
    "eval_strategy": "no",
    "save_strategy": "no",
}


@dataclass
class Done:
    """A finished run, and what was seen of its model while it was in memory."""

    plan: Plan
    run: Run
    start: dict[str, torch.Tensor] = field(default_factory=dict)
    """The model before training, by the names of its parameters and buffers."""
    batch: dict[str, torch.Tensor] = field(default_factory=dict)
    """The train and then the test rows as training encodes them."""
    end: Any = None
    """What the trained model, adapters merged, answers to the batch."""


def adapt(task: str, checkpoint: Path, data: dict[str, Any], method: str, folder: Path, **train: Any) -> Done:
    """Carry out a recipe; train: `max_steps` and `learning_rate`, say."""
    adaptation = {"method": method, **OPTIONS.get(method, {})}
    recipe = Recipe(task=task, model=str(checkpoint), data=data, adapt=adaptation, train=TRAIN | train)
    gc.freeze()  # The Trainer collects garbage; all that was imported need not be searched each time.
    plan = hfadapt.plan(recipe)
    done = Done(plan, Run(folder))
    with _watched(done):
        hfadapt.adapt(plan, folder)
    return done


@contextmanager
def _watched(done: Done):
    """Look at the model when it has been loaded, and when it is about to be saved."""
    load, save = adapting.load_model, adapting.save

    def loading(plan: Plan):
        model, parts = load(plan)
        done.start = state(model)
        return model, parts

    def saving(model: Any, plan: Plan, run: Run):
        rows = [row for split in ("train", "test") for row in judging.encode(plan, split)]
        done.batch = dict(plan.recipe.task.collator(plan.processor)(rows))
        inputs = {name: tensor for name, tensor in done.batch.items() if name != "labels"}
        with torch.no_grad():
            done.end = model.eval()(**inputs)
        save(model, plan, run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapting, "load_model", loading)
        patch.setattr(adapting, "save", saving)
        # Charts and baselines take half of so small a run; other tests look at them.
        patch.setattr(judging, "draw", lambda *_: None)
        patch.setattr(judging, "compare", lambda _: {})
        yield


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of all parameters and buffers."""
    return {n: t.detach().clone() for n, t in (*model.named_parameters(), *model.named_buffers())}


def statistics(model: nn.Module, moving) -> set[str]:
    """The running statistics of the batch norms whose scale trains; those of all others stand still."""
    norms = [n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d) and f"{n}.weight" in moving]
    return {f"{norm}.{name}" for norm in norms for name in ("running_mean", "running_var", "num_batches_tracked")}


def surprise(logits, labels) -> float:
    """The mean cross-entropy of logits, (rows, labels), with label ids, (rows,)."""
    return float(nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(list(labels))))


def moving_tensors(done: Done) -> set[str]:
    """The tensors of the plain model that some stage moves, themselves or by an adapter in their module."""
    names = {name.removeprefix("base_model.model.") for stage in done.plan.stages for name in stage.speeds}
    names = {name.replace(".modules_to_save.default", "") for name in names}
    names = {name.partition(".lora_")[0] + ".weight" if ".lora_" in name else name for name in names}
    assert names <= done.start.keys()
    return names


def check_what_moves(done: Done, came: dict[str, torch.Tensor]) -> None:
    """The tensors that the stages name change, and nothing else by a bit, from the checkpoint to the saved model.

    Of batch norms that train, the statistics change too. The head trains whole, but for what the model itself
    owns, such as a temperature, which adapters leave alone. came: the state of the checkpoint.
    """
    moving, head = moving_tensors(done), done.plan.anatomy.head
    assert {name for name in head if "." in name} <= moving
    assert [name for name in came.keys() - set(head) if not torch.equal(came[name], done.start[name])] == []
    model = loaded(done.plan, done.run.model)
    saved = state(model)
    changed = {name for name in saved if not torch.equal(saved[name], done.start[name])}
    assert changed == moving | statistics(model, moving)


def loaded(plan: Plan, folder: Any) -> Any:
    """The model that transformers loads from a folder under the head of a plan, in eval mode; a head of another
    size is left out."""
    import transformers

    with quiet():
        auto = getattr(transformers, plan.recipe.task.auto_class)
        return auto.from_pretrained(folder, config=plan.config, ignore_mismatched_sizes=True).eval()


def check_adapter(done: Done) -> None:
    """The adapter reloads through peft, head included, with what the merged model answers, but for rounding."""
    import peft

    plain = loaded(done.plan, done.run.model)
    with quiet():
        adapted = peft.PeftModel.from_pretrained(loaded(done.plan, done.plan.source.path), done.run.path / "adapter")
    inputs = {name: tensor for name, tensor in done.batch.items() if name != "labels"}
    with torch.no_grad():
        merged, beside = plain(**inputs), adapted.eval()(**inputs)
    for name in done.plan.recipe.task.reads:
        assert torch.allclose(merged[name], beside[name], atol=1e-5 * max(1, float(merged[name].abs().max())))
