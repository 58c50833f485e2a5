"""What is promised of every family by every method, whatever the task; the tests of each modality ask it.

The whole grid of methods × families would take an hour. Unless the environment says `HFADAPT_CONFORMANCE=all`, every
family sees the methods of `ALWAYS`, and every other method is tried on one family, in turn one that reads and one that
sees: the first that it applies to, beginning with another family for each method.
"""

from __future__ import annotations

import gc
import json
import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import hfadapt
from hfadapt import adapting, discover, judging
from hfadapt.backbones.base import Family
from hfadapt.errors import HfadaptError
from hfadapt.folder import Run
from hfadapt.methods._peft import PeftAdaptation
from hfadapt.methods.base import Adaptation
from hfadapt.noise import quiet
from hfadapt.planning import Plan
from hfadapt.recipe import Recipe
from hfadapt.training.trainer import ExactTrainer, StageTrainer

FAMILIES = list(discover.facts("hfadapt.backbones", Family).values())
METHODS = discover.variants("hfadapt.methods", Adaptation)
TEXTS, PICTURES, PAIRS = "text-classification", "image-classification", "image-text-contrastive"
WHOLE = os.environ.get("HFADAPT_CONFORMANCE") == "all"
ALWAYS = ("full", "linear-probe", "lora")
"""What every family sees."""
TEACHER = "a run of `full` on the same family"
OPTIONS: dict[str, dict[str, Any]] = {
    "distill": {"teacher": TEACHER},
    "ema": {"decay": 0.8},
    "lora": {"r": 2},
    "partial": {"top": 1},
    "pretrain": {"epochs": 2},
    "stages": {"stages": [{"train": "head"}, {"train": ["blocks[-1:]", "head"]}, {"train": "everything"}]},
    "surgical": {"blocks": "-1:"},
    "wise-ft": {"mix": [0.5, 0.8]},
}
"""What a method is given: what it needs, and what makes it small enough."""
EVALUATED = {"soup": {"eval_strategy": "steps", "eval_steps": 5}}
"""Training arguments of methods that do nothing without evaluations."""
ONLY = {
    "distill": {TEXTS, PICTURES},
    "pretrain": {TEXTS, PICTURES},
    "prompt-tuning": {TEXTS},
    "coop": {PAIRS},
    "clip-adapter": {PAIRS},
}
"""The tasks of the methods that refuse all others while planning."""
MAY_REFUSE = {"bitfit": 0.3, "clip-adapter": 0.5}
"""Of the families of its tasks, the greatest share that a method may refuse while planning; adapters, for which see
`may_refuse`, besides; others refuse none."""
REFINED = {"soup", "wise-ft"}
"""Methods that choose weights by the validation rows."""
HEADLESS = {"none", "coop", "clip-adapter"}
"""Methods that leave the head as it is."""
LONELY = {"mobilenet_v2": "it pads by the stride of its convolutions, which peft's layers do not have"}
"""Kinds whose adapters plain peft cannot run, so that only what was merged is left."""
TRAIN = {
    "per_device_train_batch_size": 16,
    "logging_steps": 1,
    "warmup_steps": 0,
    "eval_strategy": "no",
    "save_strategy": "no",
}

Case = tuple[str, str]
"""A kind of backbone and a task."""


def cells(cases: Sequence[Case]) -> list[tuple[Case | None, str]]:
    """Families and methods to try together; for None see `tried`."""
    if WHOLE:
        return [(case, method) for case in cases for method in METHODS]
    others = [(None, name) for name in METHODS if name not in ALWAYS and _turn(name, {task for _, task in cases})]
    return [(case, name) for case in cases for name in ALWAYS] + others


def _turn(method: str, tasks: set[str]) -> bool:
    """Whether a method is tried on families with these tasks: that it is for, or, of those for all, every other one."""
    meant = ONLY.get(method, {TEXTS, PICTURES, PAIRS})
    if TEXTS in meant and len(meant) > 1:
        return (list(METHODS).index(method) % 2 == 0) == (TEXTS in tasks)
    return bool(meant & tasks)


def cell_id(cell: tuple[Case | None, str]) -> str:
    """How pytest calls a cell."""
    return "-".join((*(cell[0] or ()), cell[1]))


def tried(cases: Sequence[Case], cell: tuple[Case | None, str]) -> Iterator[Case]:
    """The families to try a method on until it accepts one."""
    case, method = cell
    known = [case] if case else list(cases)
    start = list(METHODS).index(method) % len(known)
    return (case for case in [*known[start:], *known[:start]] if case[1] in ONLY.get(method, {case[1]}))


def options(method: str) -> dict[str, Any]:
    """The `adapt` section that tries a method."""
    needed = [its.alias or name for name, its in METHODS[method].model_fields.items() if its.is_required()]
    lacking = set(needed) - OPTIONS.get(method, {}).keys()
    assert not lacking, (
        f"'{method}' needs {sorted(lacking)}: give it an entry in OPTIONS of tests/conformance/promises.py"
    )
    return {"method": method, **OPTIONS.get(method, {})}


def adaptation(method: str, teacher: Callable[[], Path]) -> dict[str, Any]:
    """The `adapt` section that tries a method; teacher: the folder of a run."""
    return {name: str(teacher()) if value == TEACHER else value for name, value in options(method).items()}


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
    aliases: dict[nn.Parameter, set[str]] = field(default_factory=dict)
    """All names of each parameter of the model that trains; adapters may share theirs."""
    looks: dict[str, int] = field(default_factory=dict)
    """The steps of each stage; the first two were looked at."""


REFUSED: dict[str, set[Case]] = {}
"""What was refused while planning, by method."""


def accepted(cases: Sequence[Case], cell: tuple[Case | None, str], plan_for: Callable[[Case, str], Plan]) -> Plan:
    """The plan of a cell, for the first family that the method goes with; skips the test where there is none.

    plan_for: plans a case by a method.
    """
    method, says = cell[1], f"{cell[1]} is for other tasks"
    for case in tried(cases, cell):
        try:
            return plan_for(case, method)
        except HfadaptError as error:
            says = str(error)
            REFUSED.setdefault(method, set()).add(case)
    assert says.strip() and (may_refuse(method) or method in ONLY), says
    pytest.skip(says)


def may_refuse(method: str) -> float:
    """The share of the families of its tasks that a method may refuse; of adapters, those without linear layers."""
    return MAY_REFUSE.get(method, 0.3 if issubclass(METHODS[method], PeftAdaptation) else 0.0)


def settings_of(table: Mapping[str, tuple[int, float]], method: str) -> dict[str, Any]:
    """Steps and learning rate of a method: its own, or those of `adapter`, and of `full` for others."""
    like = "adapter" if issubclass(METHODS[method], PeftAdaptation) else "full"
    steps, rate = table.get(method, table[like])
    return {"max_steps": steps, "learning_rate": rate}


def check_refined(done: Done) -> None:
    """Methods that choose weights after training tell what they tried, in the scores and in the card."""
    tried = done.run.scores.get("tried", [])
    assert bool(tried) == (done.plan.recipe.adapt.name in REFINED)
    assert all(math.isfinite(value) for row in tried for value in row.values())


def check_refusals(cases: Sequence[Case]) -> None:
    """After all else: no method has refused more families than it may."""
    for method, refused in REFUSED.items():
        asked = [case for case in cases if case[1] in ONLY.get(method, {case[1]})]
        assert len(refused & set(asked)) <= may_refuse(method) * len(asked), (method, refused)


def planned(
    task: str, checkpoint: Path, data: dict[str, Any], method: str, table: Mapping[str, tuple[int, float]], out: Path
) -> Plan:
    """A plan; table: steps and learning rate by method, see `settings_of`; out: where a teacher may lie.

    Raises:
        HfadaptError: the method does not go with the backbone or the task.
    """

    def teacher() -> Path:
        taught = Recipe(task=task, model=str(checkpoint), data=data, train=TRAIN | {"max_steps": 2})
        return adapt(hfadapt.plan(taught), out / "teacher").run.path

    section, train = adaptation(method, teacher), TRAIN | EVALUATED.get(method, {}) | settings_of(table, method)
    # Looking for what may be kept takes as long as so short a training.
    cache = "auto" if WHOLE or method in ALWAYS else "off"
    return hfadapt.plan(Recipe(task=task, model=str(checkpoint), data=data, adapt=section, train=train, cache=cache))


def adapt(plan: Plan, folder: Path) -> Done:
    """Carry out a plan."""
    done = Done(plan, Run(folder))
    _spare_what_was_imported()
    with _watched(done):
        hfadapt.adapt(plan, folder)
    return done


@cache
def _spare_what_was_imported() -> None:
    """The Trainer collects garbage; all that was imported need not be searched each time."""
    gc.freeze()


@contextmanager
def _watched(done: Done):
    """Look at the model when it has been loaded, at every step, and when it is about to be saved."""
    load, save, compute, tally = adapting.load_model, adapting.save, ExactTrainer.compute_loss, judging.tally
    take_over, of_run = adapting.take_over, {f"{i}-{stage.name}" for i, stage in enumerate(done.plan.stages)}

    def loading(plan: Plan):
        model, parts = load(plan)
        done.start = state(model)
        return model, parts

    def taking_over(model: nn.Module, *rest: Any):
        take_over(model, *rest)
        done.start = state(model)

    def computing(trainer: ExactTrainer, model: nn.Module, *rest: Any, **named: Any):
        name = Path(trainer.args.output_dir).name
        if name in of_run and model.training:
            done.looks[name] = done.looks.get(name, 0) + 1
            if done.looks[name] <= 2:
                check_stillness(trainer, model)
                for alias, p in model.named_parameters(remove_duplicate=False):
                    done.aliases.setdefault(p, set()).add(alias)
        return compute(trainer, model, *rest, **named)

    def saving(model: Any, plan: Plan, run: Run):
        rows = [row for split in ("train", "test") for row in judging.encode(plan, split)]
        done.batch = dict(plan.recipe.task.collator(plan.processor)(rows))
        inputs = {name: tensor for name, tensor in done.batch.items() if name != "labels"}
        with torch.no_grad():
            done.end = model.eval()(**inputs)
        save(model, plan, run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapting, "load_model", loading)
        patch.setattr(adapting, "take_over", taking_over)
        patch.setattr(adapting, "save", saving)
        patch.setattr(adapting, "write_card", lambda *_: None)
        patch.setattr(ExactTrainer, "compute_loss", computing)
        # Cards, charts, baselines and intervals take half of so small a run; other tests look at them.
        patch.setattr(judging, "draw", lambda *_: None)
        patch.setattr(judging, "compare", lambda _: {})
        patch.setattr(judging, "tally", lambda *rest, **named: tally(*rest, **named | {"replicates": 2}))
        yield


def check_stillness(trainer: StageTrainer, model: nn.Module) -> None:
    """In training, what the stage names has gradients and an optimizer; a module with none of it is in eval mode."""
    moving = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert set(moving) == set(trainer.speeds)
    known = [id(p) for group in trainer.optimizer.param_groups for p in group["params"]]
    assert sorted(known) == sorted(map(id, moving.values()))
    for name, module in model.named_modules():
        parameters = list(module.parameters())
        if any(p.requires_grad for p in parameters):
            assert module.training, name
        elif parameters:
            assert [n for n, inside in module.named_modules(prefix=name) if inside.training] == []


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of all parameters and buffers."""
    return {n: t.detach().clone() for n, t in (*model.named_parameters(), *model.named_buffers())}


def statistics(model: nn.Module, moving) -> set[str]:
    """The running statistics of the batch norms whose scale trains; those of all others stand still."""
    norms = [n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d) and f"{n}.weight" in moving]
    return {f"{norm}.{name}" for norm in norms for name in ("running_mean", "running_var", "num_batches_tracked")}


def goal(done: Done, chance: float) -> float:
    """The loss below which a run must end: chance, or, but for the methods of `ALWAYS`, what it began with.

    What moves little may begin so far above chance that a few steps do not take it below.
    """
    lines = (done.run.path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [event["loss"] for event in map(json.loads, lines) if event["event"] == "trained"]
    return chance if done.plan.recipe.adapt.name in ALWAYS else max(chance, losses[0])


def surprise(logits, labels) -> float:
    """The mean cross-entropy of logits, (rows, labels), with label ids, (rows,)."""
    return float(nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(list(labels))))


def moving_modules(done: Done) -> tuple[set[str], set[str]]:
    """The tensors of the plain model that some stage moves themselves, and the modules in which an adapter moves."""
    own, adapted = set(), set()
    moving = {name for stage in done.plan.stages for name in stage.speeds}
    for names in done.aliases.values():
        if not names & moving:
            continue
        plain = {name.removeprefix("base_model.model.").replace(".modules_to_save.default", "") for name in names}
        own |= (here := plain & done.start.keys())
        adapted |= set() if here else {owner_of(name, done.start) for name in plain} - {""}
    return own, adapted


def owner_of(parameter: str, start: Collection[str]) -> str:
    """The innermost module around an adapter's parameter that holds tensors in the plain model too; "" for none."""
    words = parameter.split(".")
    outward = (".".join(words[:i]) for i in range(len(words), 0, -1))
    return next((owner for owner in outward if {f"{owner}.weight", f"{owner}.bias"} & set(start)), "")


def check_what_moves(done: Done) -> None:
    """The tensors that the stages name change, and nothing else by a bit, from the checkpoint to the saved model.

    Of batch norms that train, the statistics change too. The head trains whole, but for what the model itself
    owns, such as a temperature, which adapters leave alone.
    """
    method, head = done.plan.recipe.adapt, done.plan.anatomy.head
    came = state(loaded(done.plan, done.plan.source.path))
    own, adapted = moving_modules(done)
    if method.name not in HEADLESS:
        assert {name for name in head if "." in name} <= own
    other = [name for name in came.keys() - set(head) if not torch.equal(came[name], done.start[name])]
    assert bool(other) == (method.scratch or done.plan.pretraining is not None)
    model = loaded(done.plan, done.run.model)
    saved = state(model)
    changed = {name for name in saved if not torch.equal(saved[name], done.start[name])}
    inside = {name for name in changed if name.rpartition(".")[0] in adapted}
    assert changed - inside == own | statistics(model, own) - inside
    assert {name.rpartition(".")[0] for name in inside} == adapted
    # Where the vocabulary has grown, only what it has grown by is new.
    grown = [name for name in inside if saved[name].shape != done.start[name].shape]
    assert all(torch.equal(saved[name][: len(done.start[name])], done.start[name]) for name in grown)
    assert len(done.looks) == len(done.plan.stages)


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

    folder = done.run.path / "adapter"
    why = LONELY.get(done.plan.config.model_type)
    assert folder.exists() == (isinstance(done.plan.recipe.adapt, PeftAdaptation) and not why)
    if not folder.exists():
        pytest.skip(why or "no adapter of peft")
    plain = loaded(done.plan, done.run.model)
    with quiet():
        adapted = peft.PeftModel.from_pretrained(loaded(done.plan, done.plan.source.path), folder)
    inputs = {name: tensor for name, tensor in done.batch.items() if name != "labels"}
    with torch.no_grad():
        merged, beside = plain(**inputs), adapted.eval()(**inputs)
    for name in done.plan.recipe.task.reads:
        assert torch.allclose(merged[name], beside[name], atol=1e-4 * max(1, float(merged[name].abs().max())))
