"""The targets of all splits: which labels there are, and the id or number of every row."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from hfadapt.data.answers import Answer, Refused, answer, is_missing, number
from hfadapt.data.labels import Labels, shown_names
from hfadapt.data.rows import Rows
from hfadapt.data.table import type_name
from hfadapt.errors import DataError, Problem

if TYPE_CHECKING:
    from hfadapt.kind import Kind
    from hfadapt.recipe import Data

_INTEGER = re.compile(r"[+-]?[0-9]+")


@dataclass(frozen=True)
class Targets:
    """The targets of one split."""

    ids: np.ndarray
    """`label`: (rows,) int64; `labels`: (rows, labels) int8, 0 or 1; `number`: (rows,) float64;
    `pairs`: (rows,) int64, -1 where a row has no label."""
    refused: dict[int, str]
    """Row → why its target can't be used; its entry in `ids` means nothing."""
    repeated: np.ndarray
    """(rows,) bool: which name a label more than once."""

    def where(self, mask: np.ndarray) -> Targets:
        """Those of the rows for which a mask is true."""
        place = np.cumsum(mask) - 1
        refused = {int(place[row]): says for row, says in self.refused.items() if mask[row]}
        return Targets(self.ids[mask], refused, self.repeated[mask])


def understand(
    rows: Mapping[str, Rows],
    kind: Kind,
    data: Data,
    *,
    listed: Sequence[str],
    known: Sequence[str] | None,
) -> tuple[Labels, dict[str, Targets]]:
    """The labels, and the targets of every split.

    rows: split → its rows, `train` among them; listed: the labels that the source lists itself;
    known: those of the checkpoint, whose order is kept where the names are the same. Where nothing lists the labels,
    they are those of train, or of validation if train is streamed.

    Raises:
        DataError: the targets are not of that kind, or `data.labels` doesn't fit.
    """
    answers = {
        split: [answer(value, kind, data.label_separator) for value in its.values] for split, its in rows.items()
    }
    by = "validation" if data.streaming else "train"
    telling = rows[by]
    if kind in {"label", "pairs"}:
        answers[by] = _one_type(telling, answers[by])
        if not data.labels:
            _refuse_fractions(telling)
    if kind == "labels":
        _refuse_no_lists(telling, data)
    if data.labels:
        labels = Labels(kind, _given(data.labels, kind))
    else:
        labels = choose_labels(kind, _found(answers[by]), listed=listed, known=known)
    origin = "data.labels" if data.labels else by
    return labels, {split: _encode(its, answers[split], labels, origin) for split, its in rows.items()}


def within(rows: Rows, labels: Labels, separator: str | None, origin: str) -> Targets:
    """The targets of rows whose labels are known already.

    separator: what stands between the labels of one row; origin: what the labels are told from, for messages.
    """
    return _encode(rows, [answer(value, labels.kind, separator) for value in rows.values], labels, origin)


def first(rows: Rows, most: int) -> list[Any]:
    """The first raw targets of a split that are not missing."""
    values = (rows.values[code] for code in rows.codes)
    return list(islice((value for value in values if not is_missing(value)), most))


def choose_labels(
    kind: Kind, found: Collection[str], *, listed: Sequence[str] = (), known: Sequence[str] | None = None
) -> Labels:
    """The labels in the order of their ids: the checkpoint's, else the source's, else sorted."""
    if kind == "number":
        return Labels(kind)
    chosen = list(listed) or ordered(found)
    if known and len(known) == len(chosen) and set(known) == set(chosen):
        chosen = list(known)
    return Labels(kind, tuple(chosen))


def ordered(names: Iterable[str]) -> list[str]:
    """By size where all names are whole numbers, else by spelling."""
    unique = set(names)
    if all(_INTEGER.fullmatch(name) for name in unique):
        return sorted(unique, key=lambda name: (int(name), name))
    return sorted(unique)


def constant(ids: np.ndarray, labels: Labels) -> list[Problem]:
    """The problem that all rows of train have the same target, if so."""
    if labels.kind == "pairs" or not len(ids) or (ids != ids[:1]).any():
        return []
    what = "the same labels"
    if labels.kind != "labels":
        what = f"the number {ids[0]:g}" if labels.kind == "number" else f"the label '{labels.names[ids[0]]}'"
    says = f"Every usable row of train has {what}: there is nothing to learn."
    return [Problem(field="data", says=says, hint="Give rows with different targets.")]


def _given(names: Sequence[str | int], kind: Kind) -> tuple[str, ...]:
    """The names under `data.labels`."""
    written = tuple(str(name) for name in names)
    twice = sorted({name for name in written if written.count(name) > 1})
    if kind == "number":
        raise DataError(Problem(field="data.labels", says="The task predicts a number, which has no labels."))
    if twice:
        raise DataError(Problem(field="data.labels", says=f"Named more than once: {shown_names(twice)}."))
    return written


def _one_type(rows: Rows, answers: Sequence[Answer]) -> list[Answer]:
    """The answers; those are refused whose type is not that of most rows, like a 1 among words. None has no type."""
    total: dict[str, int] = {}
    for value, its, many in zip(rows.values, answers, np.bincount(rows.codes), strict=True):
        if its and not isinstance(its, Refused):
            total[type_name(value)] = total.get(type_name(value), 0) + int(many)
    usual = max(total, key=lambda name: total[name], default="")
    return [
        its
        if isinstance(its, Refused) or not its or type_name(value) == usual
        else Refused(f"The label is {type_name(value)}, {value!r}; in most rows it is {usual}.")
        for value, its in zip(rows.values, answers, strict=True)
    ]


def _refuse_fractions(rows: Rows) -> None:
    """Stop where all labels are numbers and some are measurements: 3.25 is no name."""
    numbers = [number(value) for value in rows.values if not is_missing(value)]
    broken = [one for one in numbers if isinstance(one, float) and not one.is_integer()]
    if broken and not any(isinstance(one, Refused) for one in numbers):
        says = f"The labels are numbers with fractions, such as {broken[0]:g}."
        hint = (
            "To predict a number say `task: {type: …, problem_type: regression}`; "
            "if they are names, list them under `data.labels`."
        )
        raise DataError(Problem(field="data", says=says, hint=hint))


def _refuse_no_lists(rows: Rows, data: Data) -> None:
    """Stop where several labels a row are asked for, but the values are no lists of names."""
    lists = [value for value in rows.values if isinstance(value, list)]
    if not lists and not data.label_separator:
        says = "A row may have several labels, but the column holds no lists."
        raise DataError(Problem(field="data.label_separator", says=says, hint="Say what stands between labels."))
    flags = all(one in (0, 1) for value in lists for one in value)
    if flags and len({len(value) for value in lists}) == 1 and any(len(set(value)) < len(value) for value in lists):
        says = "The labels are lists of 0 and 1, all of one length."
        hint = 'Give the names of the labels that a row has, as in ["anger", "joy"].'
        raise DataError(Problem(field="data", says=says, hint=hint))


def _found(answers: Sequence[Answer]) -> set[str]:
    return {name for its in answers if isinstance(its, tuple) for name in its}


def _encode(rows: Rows, answers: Sequence[Answer], labels: Labels, origin: str) -> Targets:
    within = [_within(its, labels, origin) for its in answers]
    refused = {code: str(its) for code, its in enumerate(within) if isinstance(its, Refused)}
    repeated = [code for code, its in enumerate(within) if isinstance(its, tuple) and len(set(its)) < len(its)]
    bad = np.flatnonzero(np.isin(rows.codes, list(refused)))
    return Targets(
        _table(within, labels)[rows.codes],
        {int(row): refused[int(rows.codes[row])] for row in bad},
        np.isin(rows.codes, repeated),
    )


def _table(answers: Sequence[Answer], labels: Labels) -> np.ndarray:
    """One line for each of the different raw targets."""
    if labels.kind == "number":
        return np.array([its if isinstance(its, float) else np.nan for its in answers], np.float64)
    ids = [[labels.id_of[name] for name in its] if isinstance(its, tuple) else [] for its in answers]
    if labels.kind in {"label", "pairs"}:
        return np.array([its[0] if its else -1 for its in ids], np.int64)
    table = np.zeros((len(answers), len(labels)), np.int8)
    for line, its in zip(table, ids, strict=True):
        line[its] = 1
    return table


def _within(its: Answer, labels: Labels, origin: str) -> Answer:
    if isinstance(its, tuple):
        for name in its:
            if name not in labels.id_of:
                return Refused(f"The label '{name[:60]}' is not among those of {origin}: {labels.shown()}.")
    return its
