"""The parts of a card on the task and the data: labels, sizes, splits, and the limits that follow from them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from hfadapt.backbones._source import is_published
from hfadapt.card.markdown import code, discreet, escaped, folded, last_part, table
from hfadapt.card.origins import data_name, dataset, languages
from hfadapt.errors import count
from hfadapt.planning import Plan, label_counts
from hfadapt.scoring.table import cell
from hfadapt.showing import size
from hfadapt.tasks._pictures import picture_size

SHOWN_LABELS = 20
"""More labels than this are behind a click."""
_NAMED = 8
"""So many are named in the first sentence."""


def summary(plan: Plan) -> str:
    """What the model is, in two sentences."""
    made = "built like" if plan.recipe.adapt.scratch else "made from"
    parameters = f"({plan.config.model_type}, {size(plan.parameters)} parameters)"
    by = f"by the method `{plan.recipe.adapt.name}` of hfadapt, and is a plain `transformers` model"
    return f"{_does(plan)} It was {made} {backbone(plan)} {parameters}{_whence(plan)} {by}."


def backbone(plan: Plan) -> str:
    """The backbone's name, a link where it is on the Hub."""
    name = plan.source.name
    if is_published(plan.source):
        return f"[{escaped(name)}](https://huggingface.co/{name})"
    return code(name if name.startswith("builtin/") else last_part(name))


def _whence(plan: Plan) -> str:
    if is_published(plan.source):
        return ""
    return ", which comes with hfadapt," if plan.source.name.startswith("builtin/") else ", which is not on the Hub,"


def _does(plan: Plan) -> str:
    task, labels = plan.recipe.task, plan.data.labels
    thing = {"text": "text", "image": "picture"}.get(task.modality, "")
    if "text_pair" in plan.data.splits["train"].column_names:
        thing = "pair of texts"
    if labels.kind == "number":
        return f"This model gives a {thing} a number."
    if labels.kind == "pairs":
        says = "This model embeds pictures and texts in one space, so that those that belong together are close"
        return f"{says}, and tells {len(labels)} classes by their names." if labels.names else f"{says}."
    named = ", ".join(code(name) for name in labels.names[:_NAMED])
    names = named if len(labels) <= _NAMED else f"{named} and {len(labels) - _NAMED} more"
    how = "one of the labels" if labels.kind == "label" else "any number of the labels"
    return f"This model gives a {thing} {how} {names}."


def data(plan: Plan) -> list[str]:
    """The lines of the section on the data."""
    its = plan.data
    name = dataset(plan)
    where = f"[{escaped(data_name(plan))}](https://huggingface.co/datasets/{name})" if name else code(data_name(plan))
    which = f", configuration {code(plan.recipe.data.name)}" if plan.recipe.data.name else ""
    columns = ", ".join(f"{role} from {code(column.name)}" for role, column in its.columns.items())
    lines = [f"From {where}{which}; columns: {columns}.", ""]
    lines += table(["split", "rows", *_measured(plan)[0], "how it was made"], _splits(plan), right=_right(plan))
    for line in (_skipped(plan), _long(plan)):
        lines += ["", line] if line else []
    return [*lines, *_labels(plan)]


def _splits(plan: Plan) -> Iterator[list[str]]:
    for name, rows in plan.data.splits.items():
        yield [name, f"{len(rows):,}", *_measured(plan, rows)[1], escaped(_made(plan.data.made[name]))]


def _right(plan: Plan) -> range:
    return range(1, 2 + len(_measured(plan)[0]))


def _made(how: str) -> str:
    return how.replace("given", "given by the data", 1) if how.startswith("given") else how


def _measured(plan: Plan, rows: Any = None) -> tuple[list[str], list[str]]:
    """More columns on a split, and their cells for its rows."""
    kind = plan.data.labels.kind
    if kind == "number":
        values = np.asarray(rows["label"][:], float) if rows is not None else np.zeros(1)
        found = values.mean(), values.std(), values.min(), values.max()
        return ["mean", "standard deviation", "least", "greatest"], [f"{value:.4g}" for value in found]
    if kind == "pairs":
        distinct = [f"{len(set(rows[name])):,}" if rows is not None else "" for name in ("_image", "_text")]
        return ["distinct pictures", "distinct texts"], distinct
    return [], []


def _skipped(plan: Plan) -> str:
    skipped = plan.data.skipped
    if not skipped:
        return ""
    return f"{count(len(skipped), 'row')} could not be used and {'was' if len(skipped) == 1 else 'were'} left out."


def _long(plan: Plan) -> str:
    """How long texts are, or how large pictures become."""
    if its := plan.lengths:
        sample = "" if its.looked_at == len(plan.data.splits["train"]) else f" of the first {its.looked_at:,}"
        says = f"Texts of train have {its.median:,} tokens in the median{sample} and {its.longest:,} at most"
        if plan.recipe.task.modality == "text":
            return f"{says}."
    height, width = picture_size(plan.processor)
    made = f"Pictures are made {height} × {width} pixels."
    return f"{says}. {made}" if plan.lengths else made


def _labels(plan: Plan) -> list[str]:
    """Every label with its id and its rows."""
    labels = plan.data.labels
    if not labels.names:
        return []
    counts = {split: label_counts(plan.data, split) for split in plan.data.splits}
    rows = [[str(i), code(name), *(f"{its[name]:,}" for its in counts.values())] for i, name in enumerate(labels.names)]
    shown = table(
        ["id", "class" if labels.kind == "pairs" else "label", *counts], rows, [0, *range(2, 2 + len(counts))]
    )
    lines = (
        folded(f"{len(rows)} {'classes' if labels.kind == 'pairs' else 'labels'} and their rows", shown)
        if len(rows) > SHOWN_LABELS
        else shown
    )
    return ["", *lines]


def limits(plan: Plan, baselines: Mapping[str, Any], scores: Mapping[str, Any]) -> list[str]:
    """What the model is for, and what is known of its limits: facts of the data and of the scores."""
    its, task = plan.data, plan.recipe.task
    things = {"text": "texts", "image": "pictures"}.get(task.modality, "pictures and texts")
    spoken = f", in the language {', '.join(codes)}" if (codes := languages(plan)) else ""
    lines = [f"- For {things} like those of {code(data_name(plan))}{spoken}; on others it was not measured."]
    if its.labels.kind == "label":
        lines.append("- It gives one of its labels to everything, also where none fits.")
    if its.labels.kind == "labels":
        lines.append("- A label is given from a probability of 0.5 on; that threshold was not tuned.")
    if plan.data.new:
        named = ", ".join(code(name) for name in plan.data.new[:SHOWN_LABELS])
        lines.append(f"- Classes that it was not trained on, and is judged on nevertheless: {named}.")
    lines += [f"- {escaped(fact(finding.says, its.files))}" for finding in plan.findings]
    return [*lines, *(f"- {says}" for says in _unsure(plan, baselines, scores))]


def _unsure(plan: Plan, baselines: Mapping[str, Any], scores: Mapping[str, Any]) -> Iterator[str]:
    """Simple methods that the model is not surely better than."""
    metric, better = str(plan.settled["metric_for_best_model"]), plan.settled["greater_is_better"]
    ours = scores["test"].get(metric)
    for name, its in baselines.items():
        theirs = its.get("test", {}).get(metric)
        if ours is None or theirs is None or ours.low is None:
            continue
        low, high, value = (ours.low, ours.high, theirs.value)
        if not better:
            low, high, value = -ours.high, -ours.low, -theirs.value
        if value >= low:
            how = "worse than" if value > high else "not surely better than"
            both = f"{cell(ours)} against {cell(theirs)}"
            yield f"On test its `{metric}` is {how} that of the simple method `{name}`: {both}."


def fact(says: str, files: Sequence[str] = ()) -> str:
    """The first sentence of a finding; what follows is advice for who made the run.

    files: places that it may name, of which the last part is told.
    """
    for file in sorted({file for file in files if file in says}, key=len, reverse=True):
        says = says.replace(file, last_part(file))
    # Names of labels stand in quotes, and may hold anything.
    hidden = re.sub(r"'[^']*'", lambda found: "x" * len(found[0]), says)
    end = re.search(r"[.;](?= [A-Z])", hidden)
    return discreet(says[: end.start()] if end else says.rstrip(".")) + "."
