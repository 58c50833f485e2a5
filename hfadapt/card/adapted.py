"""The part of a card on how the model was adapted: what moved, how training went, what it cost."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from hfadapt.card.markdown import code, escaped, folded, table
from hfadapt.card.reproducing import PERSONAL
from hfadapt.planning import Plan
from hfadapt.showing import moving, rate, settings_with_origin, size, span


def section(
    plan: Plan, cost: Mapping[str, Any], tried: Sequence[Mapping[str, float]], *, drawn: bool, merged: bool
) -> list[str]:
    """The lines of the section.

    cost: `train_seconds`, `peak_memory_bytes`, `steps` and perhaps `processes`, `hardware` and `used`, see
    `history.used`; tried: the weights that the method chose among after training; drawn: whether there is a picture
    of the training; merged: whether there is an adapter beside the model.
    """
    method = plan.recipe.adapt
    inner = "".join(f" What moves inside it: `{its.name}`." for its in method.chain[1:])
    lines = [f"Method: `{method.name}`. {told(method)}{inner}", ""]
    if merged:
        lines += ["The weights hold what was learnt, merged; what was merged lies in `adapter/` too, for peft.", ""]
    if method.scratch:
        lines += ["The weights of the backbone were left aside: training started from random ones.", ""]
    if plan.pretraining:
        lines += [f"First came pretraining on {escaped(plan.pretraining.told)}.", ""]
    lines += _moved(plan)
    lines += ["", *_spent(plan, cost), ""]
    if drawn:
        lines += ["![Loss and validation score by the step](training.png)", ""]
        if plan.settled.get("load_best_model_at_end") and plan.stages:
            lines += [f"Kept was the checkpoint with the best `{plan.settled['metric_for_best_model']}`.", ""]
    lines += _chosen(tried)
    return [*lines, *_settings(plan)]


def told(method: Any) -> str:
    """The first sentence of a method's own description."""
    first = " ".join(inspect.cleandoc(type(method).__doc__ or "").split("\n\n")[0].split())
    ends = [found.start() for found in re.finditer(r"(?<! al)\. |; ", first)]
    whole = (first[:end] for end in ends if first[:end].count("(") == first[:end].count(")"))
    return next(whole, first).rstrip(".") + "."


def _moved(plan: Plan) -> list[str]:
    """The parts of the model and how fast they moved; neighbouring blocks that fared alike share a row."""
    rows = []
    for stage in plan.stages:
        parts = list(moving(plan, stage).items())
        while parts:
            name, fate = parts.pop(0)
            last, tower = name, name.partition("blocks[")[0]
            while "blocks[" in name and parts and parts[0][1] == fate and parts[0][0].startswith(f"{tower}blocks["):
                last = parts.pop(0)[0]
            total, moves, rates = fate
            part = f"`{name}`" if name == last else f"`{name}` to `{last}`, each"
            how = ", ".join(map(rate, rates)) if moves else "frozen"
            rows.append([escaped(stage.name), part, size(total), size(moves), how])
    if not rows:
        return ["Nothing was trained."]
    one = len(plan.stages) == 1
    header = ["stage", "part", "parameters", "of them moved", "learning rate"]
    return table(header[one:], (row[one:] for row in rows), right=[2 - one, 3 - one])


def _spent(plan: Plan, cost: Mapping[str, Any]) -> list[str]:
    most = max((plan.trainable(stage) for stage in plan.stages), default=0)
    share = f"{size(most)} of {size(plan.parameters)} parameters moved" + (" at most" if len(plan.stages) > 1 else "")
    where = f" on {cost['hardware']}" if cost.get("hardware") else ""
    memory = f"{cost['peak_memory_bytes'] / 2**30:.1f} GiB at the peak"
    used = cost.get("used", "")
    others = f" Of its embeddings of tokens, {used}; the others stayed as they were." if used else ""
    return [f"{share}, in {plan.steps:,} steps and {span(cost['train_seconds'])}{where}, with {memory}.{others}"]


def _chosen(tried: Sequence[Mapping[str, float]]) -> list[str]:
    """What was tried after training, a table for each way of trying."""
    lines = ["Weights that were chosen among by the validation rows:", ""] if tried else []
    for names, rows in groupby(tried, key=tuple):
        cells = [[f"{row[name]:.4f}" if name == "score" else f"{row[name]:g}" for name in names] for row in rows]
        lines += [*table(list(names), cells, right=range(len(names))), ""]
    return lines


def _settings(plan: Plan) -> list[str]:
    """What differs from upstream's defaults, but for what names a person's places."""
    found = {name: value for name, (value, _) in settings_with_origin(plan).items() if name not in PERSONAL}
    rows = [[f"`{name}`", code(_value(value))] for name, value in found.items()]
    summary = "Arguments of transformers.TrainingArguments that are not its defaults"
    return folded(summary, table(["argument", "value"], rows))


def _value(value: Any) -> str:
    return rate(value) if isinstance(value, float) and 0 < value < 1e-2 else str(value)
