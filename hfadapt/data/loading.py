"""A recipe's `data` section to checked, split rows under the task's roles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hfadapt.data import (
    bad_rows,
    building,
    checks,
    classes,
    columns,
    keys,
    local,
    looking,
    rows,
    sampling,
    sharing,
    sources,
    splits,
    streaming,
    targets,
)
from hfadapt.data.cells import CELL
from hfadapt.data.checks import Split
from hfadapt.data.columns import Column
from hfadapt.data.labels import Labels
from hfadapt.data.looking import Looks
from hfadapt.data.rows import Reading, Rows
from hfadapt.data.splits import Chosen
from hfadapt.data.streaming import Stream
from hfadapt.data.table import BadRow
from hfadapt.data.table import Finding as Finding
from hfadapt.data.targets import Targets
from hfadapt.errors import DataError, Problem

if TYPE_CHECKING:
    import datasets

    from hfadapt.data.prompts import Prompts
    from hfadapt.kind import Kind
    from hfadapt.recipe import Data
    from hfadapt.tasks.base import Role

_LOOK_AT = 1000
"""Targets that the kind of answer is told from."""


@dataclass(frozen=True)
class Loaded:
    """Rows ready to be encoded, and all that is to be said about how they came to be."""

    splits: dict[str, datasets.Dataset]
    """`train`, `validation` and `test`; a column for each role, `_file` and `_line`.

    A target is an id (kind `label`), a list with 0 or 1 for each label (`labels`) or a float. A picture is what
    `datasets.Image(decode=False)` holds. Of `pairs` the label, if the recipe names it, is an id, or -1 where a row
    has none, and `_image` and `_text` are ids too: equal where the pictures or texts are, over all splits.
    """
    labels: Labels
    columns: dict[str, Column]
    """Role → the column that plays it."""
    files: tuple[str, ...]
    """What `_file` counts: paths as given; `_line` is 0 where the file is one picture."""
    findings: tuple[Finding, ...]
    """Warnings for a person."""
    skipped: tuple[BadRow, ...]
    """Rows left out because they can't be used."""
    made: dict[str, str]
    """How each split came to be: `given`, or `10% of train, stratified, seed 42`."""
    fingerprint: str
    """The SHA-256 of all rows and the label names; of pictures their bytes count, not where they lie."""
    prompted: bool = False
    """Whether the texts of pairs are made of the labels."""
    new: tuple[str, ...] = ()
    """The labels that only test has rows of, because they are not to be trained on."""
    stream: Stream | None = None
    """Where the training rows come from if they are streamed; `splits["train"]` are the first of them then, and the
    fingerprint is of these."""


def load(
    data: Data,
    roles: Mapping[str, Role],
    kind: Callable[[Sequence[Any], str | None], Kind],
    *,
    seed: int,
    known_labels: Sequence[str] | None = None,
    prompts: Prompts | None = None,
) -> Loaded:
    """The rows that a recipe names, checked and split.

    kind: tells from the first targets and `data.label_separator` what a row is answered with;
    known_labels: those of the checkpoint, whose order is kept where the names are the same;
    prompts: of a task that asks for classes by their names.

    Raises:
        DataError: the data can't be used as they are.
    """
    images = [role for role, its in roles.items() if its.holds == "image"]
    chosen = splits.choose(data, sources.find(data, images), images)
    if data.streaming:
        streaming.refuse(chosen)
    tables = [table for its in chosen.given.values() for table in its]
    chosen_columns = columns.choose(data.columns, roles, tables, prompts=prompts)
    of = {what: [r for r in chosen_columns if roles[r].holds == what] for what in ("text", "image", "target")}
    target = next(iter(of["target"]), None)
    # Where no target is needed, pairs are learnt, and a list of texts is as many pairs.
    pairs = all(its.optional for its in roles.values() if its.holds == "target")
    prompted = prompts is not None and not of["text"]
    files: list[str] = []
    read = _read(chosen, chosen_columns, of, files, data, several=pairs)
    asks = prompted or not pairs
    answered = _kind(read, kind, data, chosen_columns[target or ""]) if asks else kind([], data.label_separator)
    listed = chosen.given["train"][0].label_names(chosen_columns[target].name) if target else ()
    # A row whose text is made of its label can't do without.
    telling: Kind = "label" if prompted else answered
    every = {split: its.rows for split, its in read.items()}
    labels, understood = targets.understand(every, telling, data, listed=listed, known=known_labels)
    read, understood, drawn = sampling.draw(read, understood, data, labels, seed)
    raw = {split: its.rows for split, its in read.items()}
    new = classes.new_classes(prompts, labels) if prompts else ()
    if prompts and prompted:
        raw = {s: classes.captioned(its, understood[s].ids, labels, roles, prompts) for s, its in raw.items()}
    usable, skipped = _checked(read, raw, understood, labels, data, files, seed)
    labels = replace(labels, kind=answered)
    divided = _divided(usable, chosen, labels, seed)
    order = [role for role in roles if role in chosen_columns or (prompted and roles[role].holds == "text")]
    finished = building.finish(classes.without(divided, labels, new) if new else divided, target, order, labels)
    loaded = Loaded(
        splits=finished.splits,
        labels=labels,
        columns=chosen_columns,
        files=tuple(files),
        findings=tuple(_findings(chosen, usable, divided, labels, understood, files, prompts if prompted else None)),
        skipped=skipped,
        made=_made(divided, chosen, labels, seed, drawn, less=bool(new)),
        fingerprint=finished.fingerprint,
        prompted=prompted,
        new=new,
    )
    return _streamed(loaded, chosen, of, data) if data.streaming else loaded


def _read(
    chosen: Chosen,
    chosen_columns: Mapping[str, Column],
    of: Mapping[str, list[str]],
    files: list[str],
    data: Data,
    *,
    several: bool,
) -> dict[str, Reading]:
    """The rows of the splits that have some; of a stream, the first. of: what a column holds → the roles."""
    read = {
        split: rows.read(
            its,
            chosen_columns,
            of["text"],
            files,
            pictures=of["image"],
            several=several,
            most=streaming.LOOKED_AT if data.streaming and split == "train" else None,
        )
        for split, its in chosen.given.items()
    }
    _refuse_unreadable(read, chosen, data, files)
    return read


def _streamed(loaded: Loaded, chosen: Chosen, of: Mapping[str, list[str]], data: Data) -> Loaded:
    """The same with the stream that its training rows are the first of."""
    stream = Stream(
        tables=chosen.given["train"],
        columns=loaded.columns,
        texts=of["text"],
        pictures=of["image"],
        labels=loaded.labels,
        origin="data.labels" if data.labels else "validation",
        separator=data.label_separator,
        skips=data.on_bad_row == "skip",
        buffer=data.shuffle_buffer,
    )
    findings = (streaming.announced(len(loaded.splits["train"])), *loaded.findings)
    return replace(loaded, stream=stream, findings=findings, made=loaded.made | {"train": streaming.MADE})


def _checked(
    read: Mapping[str, Reading],
    raw: Mapping[str, Rows],
    understood: Mapping[str, Targets],
    labels: Labels,
    data: Data,
    files: list[str],
    seed: int,
) -> tuple[dict[str, Split], tuple[BadRow, ...]]:
    """The usable rows of each split, and those that are left out.

    raw: the rows that were read, with the texts that are made.
    """
    images = [role for role, column in raw["train"].inputs.items() if column.type == CELL]
    looks = {role: looking.look({s: its.inputs[role] for s, its in raw.items()}, seed) for role in images}
    refused = {split: _refused(its, understood[split], looks, split) for split, its in raw.items()}
    bad = {split: _bad(its, refused[split], files) for split, its in read.items()}
    usable = {split: _usable(its, refused[split], understood[split], looks, split) for split, its in raw.items()}
    same = targets.constant(usable["train"].ids, labels)
    if data.streaming:
        same = streaming.constant(same)
    # Where rows of train can't be used, mending them may bring other targets.
    skipped = _settled(bad, read, data, () if bad["train"] else same)
    if same:
        raise DataError(*same)
    return usable, skipped


def _findings(
    chosen: Chosen,
    usable: Mapping[str, Split],
    divided: Mapping[str, Split],
    labels: Labels,
    understood: Mapping[str, Targets],
    files: Sequence[str],
    prompts: Prompts | None,
) -> Iterator[Finding]:
    """What a person should know; prompts: where the texts are made of the labels."""
    for split, its in chosen.given.items():
        for table in its:
            yield from table.remarks(split)
    if prompts and prompts.captions is None:
        yield classes.announced(prompts)
    repeated = sum(int(its.repeated.sum()) for its in understood.values())
    yield from checks.of_inputs(usable, labels.kind, files, prompted=bool(prompts))
    yield from checks.of_labels(usable, divided, labels, repeated, prompted=bool(prompts))


def _refuse_unreadable(read: Mapping[str, Reading], chosen: Chosen, data: Data, files: list[str]) -> None:
    """Stop where the rest of a file can't be read, or a split has no row that can."""
    fatal = [problem for its in read.values() for problem in its.fatal]
    bad = {split: bad_rows.ordered(its.bad, files) for split, its in read.items()}
    if fatal:
        listed = [row for its in bad.values() for row in its] if data.on_bad_row == "stop" else []
        raise bad_rows.stop(listed, fatal, bad_rows.SKIP)
    if any(not len(its.rows) for its in read.values()):
        _settled(bad, read, data)
        empty = {split: chosen.given[split] for split, its in read.items() if not len(its.rows)}
        where = {split: ", ".join(table.shown for table in its) for split, its in empty.items()}
        raise DataError(*(Problem(where=where[split], says=f"There are no rows for {split}.") for split in empty))


def _kind(
    read: Mapping[str, Reading], kind: Callable[[Sequence[Any], str | None], Kind], data: Data, column: Column
) -> Kind:
    """What a row is answered with, once it is sure that every split has an answer."""
    first = {split: targets.first(its.rows, _LOOK_AT) for split, its in read.items()}
    problems = [
        Problem(
            field="data" if split == "train" else f"data.{split}",
            says=f"In column '{column.name}' no row of {split} has a value.",
            hint="Name another column." if split == "train" else "Name another split or a share such as 0.1.",
        )
        for split, values in first.items()
        if not values
    ]
    if problems:
        raise DataError(*problems)
    return kind(first["train"], data.label_separator)


def _refused(rows: Rows, understood: Targets, looks: Mapping[str, Mapping[str, Looks]], split: str) -> dict[int, str]:
    """Row of a split → why it can't be used: its target, or else its picture."""
    pictures = {row: says for role, its in looks.items() for row, says in looking.refused(rows, role, its[split])}
    return {**pictures, **understood.refused}


def _bad(read: Reading, refused: Mapping[int, str], files: list[str]) -> list[BadRow]:
    """All rows of a split that can't be used, in the order of its files."""
    its = read.rows
    added = [BadRow(files[its.file[i]], int(its.line[i]), says) for i, says in refused.items()]
    return bad_rows.ordered([*read.bad, *added], files)


def _settled(
    bad: Mapping[str, list[BadRow]], read: Mapping[str, Reading], data: Data, other: Sequence[Problem] = ()
) -> tuple[BadRow, ...]:
    """The rows to leave out; stops where the recipe says so, or for another problem."""
    every = [row for its in bad.values() for row in its] if data.on_bad_row == "stop" else []
    if every or other:
        raise bad_rows.stop(every, other, bad_rows.SKIP)
    return bad_rows.leave_out(bad, {split: len(its.rows) + len(its.bad) for split, its in read.items()})


def _usable(
    rows: Rows,
    refused: Mapping[int, str],
    understood: Targets,
    looks: Mapping[str, Mapping[str, Looks]],
    split: str,
) -> Split:
    mask = np.ones(len(rows), bool)
    mask[list(refused)] = False
    kept = rows.where(mask)
    seen = {role: its[split].where(mask) for role, its in looks.items()}
    return Split(kept, understood.ids[mask], keys.keys(kept.inputs, seen))


def _divided(usable: Mapping[str, Split], chosen: Chosen, labels: Labels, seed: int) -> dict[str, Split]:
    """The splits in their order, those that the source lacks set aside from train."""
    train = usable["train"]
    if not chosen.shares:
        return {split: usable[split] for split in local.SPLITS}
    strata = sharing.strata(train.ids, labels.kind)
    masks = sharing.set_aside(train.whole(labels.kind).normal, strata, chosen.shares, seed, train.what)
    return {split: train.where(masks[split]) if split in masks else usable[split] for split in local.SPLITS}


def _made(
    divided: Mapping[str, Split], chosen: Chosen, labels: Labels, seed: int, drawn: Mapping[str, str], *, less: bool
) -> dict[str, str]:
    """How each split came to be; drawn: where it is a part of what was given, which; less: whether those to train by
    are without the new classes."""
    how = "stratified, " if labels.names else ""
    made = {split: f"{100 * share:.4g}% of train, {how}seed {seed}" for split, share in chosen.shares.items()}
    if made:
        less_these = " and ".join(split for split in local.SPLITS if split in chosen.shares)
        made["train"] = f"{drawn.get('train', 'given')}, less {less_these}"
    base = {split: ", base classes only" if less and split != "test" else "" for split in divided}
    return {split: f"{made.get(split, drawn.get(split, 'given'))}{base[split]}" for split in divided}
