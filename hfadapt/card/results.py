"""The parts of a card on how well the model does, and where it does worst."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hfadapt.card.markdown import code, table
from hfadapt.card.metadata import overall
from hfadapt.planning import Plan, label_counts
from hfadapt.scoring import slices
from hfadapt.scoring.kinds import LESS_IS_BETTER
from hfadapt.scoring.table import MISSING, cell
from hfadapt.scoring.tally import Score

Scores = Mapping[str, Mapping[str, Score]]
"""Split → metric → score."""
BASELINES = {
    "majority": "gives every row the labels' frequencies in train",
    "mean": "gives every row the mean of train",
    "tfidf": "is a regression on words and pairs of words, weighted by TF-IDF",
    "pixels": "is a regression on the colours of the pictures, made small",
    "zero-shot": "is the backbone as it came, asked by the names of the classes",
    "tip-adapter": "is Tip-Adapter (https://arxiv.org/abs/2207.09519) on the backbone as it came",
    "chance": "is what a random order would get",
}
"""What the simple methods are."""
MOST_LABELS = 5
"""So many of the labels with the lowest F1 are told."""


def section(plan: Plan, scores: Scores, baselines: Mapping[str, Scores], *, drawn: bool) -> list[str]:
    """The lines of the section; drawn: whether there is a picture of what is taken for what."""
    rows = len(plan.data.splits["test"])
    metrics = overall(scores["test"])
    everyone = {"this model": scores["test"]} | {name: its["test"] for name, its in baselines.items() if "test" in its}
    best = str(plan.settled["metric_for_best_model"])
    lines = [
        f"On the {rows:,} rows of test. In brackets are 95% "
        "intervals by the bootstrap over rows: they tell how much other rows of the same kind would change a score, "
        "not other seeds.",
        "",
        *table(
            ["", *(_name(name) for name in everyone)],
            [[f"`{m}`", *(cell(its.get(m)) for its in everyone.values())] for m in metrics],
        ),
        "",
        *(f"- {_name(name)} {_whats(plan, name)}" for name in everyone if name in BASELINES),
    ]
    if best in scores["validation"]:
        chosen = ", by which the checkpoint was chosen" if plan.settled.get("load_best_model_at_end") else ""
        lines += ["", f"On validation{chosen}: `{best}` {cell(scores['validation'][best])}."]
    if drawn:
        lines += ["", "![Which labels are taken for which](confusion.png)"]
    return lines


def _name(name: str) -> str:
    return name if name == "this model" else f"`{name}`"


def _whats(plan: Plan, name: str) -> str:
    if name == "zero-shot" and plan.data.labels.kind == "pairs":
        return "is the backbone as it came"
    return BASELINES[name]


def lead(plan: Plan, scores: Scores, baselines: Mapping[str, Scores]) -> str:
    """A sentence on the main score beside that of the best simple method; empty where there is none."""
    metric = str(plan.settled["metric_for_best_model"])
    ours = scores["test"].get(metric)
    if ours is None:
        return ""
    theirs = {name: its["test"][metric] for name, its in baselines.items() if metric in its.get("test", {})}
    says = f"`{metric}` on test is **{cell(ours)}**"
    if not theirs:
        return f"{says}."
    sign = -1 if metric in LESS_IS_BETTER else 1
    name, best = max(theirs.items(), key=lambda item: sign * item[1].value)
    return f"{says}; the best simple method, `{name}`, has {cell(best)}."


def worst(plan: Plan, judged: Any) -> list[str]:
    """Where the model does worst on test, as far as there are rows enough to tell; judged: of the test split."""
    lines = _labels(plan, judged)
    quarters = _lengths(plan, judged)
    return [*lines, *([""] if lines and quarters else []), *quarters]


def _labels(plan: Plan, judged: Any) -> list[str]:
    """The labels with the lowest F1, with their counts."""
    names, counts = plan.data.labels.names, label_counts(plan.data, "test")
    told = [name for name in names if counts[name] >= slices.FEWEST and f"f1[{name}]" in judged.by_label]
    if len(told) < 2:
        return []
    told.sort(key=lambda name: judged.by_label[f"f1[{name}]"].value)
    few = told[:MOST_LABELS]
    header = ["label", "rows of test", "F1", "precision", "recall"]
    taken = _taken(plan, judged.confusion)
    rows = [
        [
            code(name),
            f"{counts[name]:,}",
            *(cell(judged.by_label.get(f"{metric}[{name}]")) for metric in ("f1", "precision", "recall")),
            *([taken.get(name, MISSING)] if taken else []),
        ]
        for name in few
    ]
    whose = "Labels, the worst first" if len(few) == len(names) else f"The {len(few)} labels with the lowest F1"
    less = len(names) - len(told)
    but = f", of those with at least {slices.FEWEST} rows of test ({less} have fewer)" if less else ""
    asked = ", told by their names" if plan.data.labels.kind == "pairs" else ""
    shown = table([*header, *(["most often taken for"] if taken else [])], rows, right=[1])
    return [f"{whose}{but}{asked}:", "", *shown]


def _taken(plan: Plan, confusion: Any) -> dict[str, str]:
    """Label → the one that its rows are most often taken for, and how often."""
    names = plan.data.labels.names
    if confusion is None:
        return {}
    wrong = np.array(confusion)
    np.fill_diagonal(wrong, 0)
    most = wrong.argmax(1)
    return {
        name: f"{code(names[other])} ({wrong[i, other]:,})"
        for i, (name, other) in enumerate(zip(names, most, strict=True))
        if wrong[i, other]
    }


def _lengths(plan: Plan, judged: Any) -> list[str]:
    """The quarters of the test texts by length."""
    task, kind, test = plan.recipe.task, plan.data.labels.kind, plan.data.splits["test"]
    texts = [role for role, its in task.roles.items() if its.holds == "text" and role in test.column_names]
    if not texts or judged.marks is None or plan.data.prompted:
        return []
    lengths = task.lengths(test.select_columns(texts)[:], plan.processor)
    quarters = slices.by_length(judged.marks, lengths or [], kind, seed=plan.settled["seed"]) if lengths else []
    if not quarters:
        return []
    metric = slices.METRICS[kind]
    sign = -1 if metric in LESS_IS_BETTER else 1
    least = min(quarters, key=lambda its: sign * its.score.value)
    rows = [
        [
            f"{its.low:,}–{its.high:,}" if its.low < its.high else f"{its.low:,}",
            f"{its.score.rows:,}",
            cell(its.score) + (" ← worst" if its is least else ""),
        ]
        for its in quarters
    ]
    return [
        "By the length of the text, in tokens, in quarters:",
        "",
        *table(["tokens", "rows of test", f"`{metric}`"], rows, right=[1]),
    ]
