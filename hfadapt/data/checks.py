"""What a person should know about the rows before trusting a score on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hfadapt.data.cells import CELL
from hfadapt.data.keys import Keys, Same
from hfadapt.data.labels import Labels, shown_names
from hfadapt.data.rows import Rows
from hfadapt.data.table import Finding
from hfadapt.data.text import normalised
from hfadapt.errors import count

if TYPE_CHECKING:
    from hfadapt.kind import Kind

FEW = 5
"""A label with fewer rows in train is rare."""
MOST = 0.9
"""A label with a larger share of train makes accuracy say little."""


@dataclass(frozen=True)
class Split:
    """The usable rows of one split, and all that is known about them."""

    rows: Rows
    ids: np.ndarray
    keys: Keys

    def where(self, mask: np.ndarray) -> Split:
        """The rows for which a mask is true."""
        return Split(self.rows.where(mask), self.ids[mask], self.keys.where(mask))

    @property
    def picture(self) -> str | None:
        """The role that holds pictures, if one does."""
        return next((role for role, column in self.rows.inputs.items() if column.type == CELL), None)

    def whole(self, kind: Kind) -> Same:
        """What must not stand in two splits: the inputs of a row; of a pair the picture, whatever its texts."""
        return self.keys.parts[self.picture] if kind == "pairs" and self.picture else self.keys

    @property
    def what(self) -> str:
        """What rows are: `text` or `picture`."""
        return "picture" if self.picture else "text"


def of_inputs(
    given: Mapping[str, Split], kind: Kind, files: Sequence[str], *, prompted: bool = False
) -> Iterator[Finding]:
    """Warnings about the inputs of the rows as they were given, before shares are set aside.

    files: what the rows' `file` counts; prompted: whether the texts of pairs are made of classes.
    """
    yield from _blanks(given, files)
    yield from _repeats(given["train"], kind)
    yield from _leaks(given, kind)
    if kind == "pairs" and not prompted:
        yield from _shared(given["train"])


def of_labels(
    given: Mapping[str, Split], divided: Mapping[str, Split], labels: Labels, repeated: int, *, prompted: bool = False
) -> Iterator[Finding]:
    """Warnings about the labels, in the rows as given and in the final splits.

    repeated: rows that name a label more than once; prompted: whether the texts of pairs are made of the labels.
    """
    if labels.kind == "number":
        return
    if repeated:
        yield Finding(f"A label is named more than once in {count(repeated, 'row')}; it counts once.", repeated)
    totals = {split: _totals(its.ids, labels) for split, its in divided.items()}
    if labels.kind == "pairs" and not prompted:
        yield from _lookalikes(labels, totals["train"])
        return
    yield from _conflicts(given["train"], labels.kind)
    yield from _lookalikes(labels, totals["train"])
    if labels.kind == "label":
        yield from _imbalance(labels, totals["train"])
    yield from _rare(labels, totals["train"])
    yield from _absent(labels, totals)


def _blanks(splits: Mapping[str, Split], files: Sequence[str]) -> Iterator[Finding]:
    for role in splits["train"].keys.blank:
        places = [its.rows.place(i, files) for its in splits.values() for i in np.flatnonzero(its.keys.blank[role])[:1]]
        rows = sum(int(its.keys.blank[role].sum()) for its in splits.values())
        if rows:
            says = f"The {role} is empty or blank in {count(rows, 'row')}, first at {places[0]}."
            yield Finding(f"{says} Nothing can be learnt from it.", rows)


def _repeats(train: Split, kind: Kind) -> Iterator[Finding]:
    rows = len(train.rows) - len(np.unique(train.keys.exact))
    if rows:
        what, such = ("pair", "pairs") if kind == "pairs" else (train.what, f"{train.what}s")
        says = f"The {what} of another row is repeated in {count(rows, 'row')} of train."
        yield Finding(f"{says} Remove the copies, unless such {such} should weigh more.", rows)


def _leaks(given: Mapping[str, Split], kind: Kind) -> Iterator[Finding]:
    for judged, seen in (("validation", ("train",)), ("test", ("train", "validation"))):
        others = [given[split].whole(kind) for split in seen if split in given]
        if judged not in given:
            continue
        ours = given[judged].whole(kind)
        exact = int(np.isin(ours.exact, np.concatenate([its.exact for its in others])).sum())
        rows = int(np.isin(ours.normal, np.concatenate([its.normal for its in others])).sum())
        if rows:
            where = " or ".join(split for split in seen if split in given)
            whose = f"the picture of {rows:,}" if kind == "pairs" else f"{rows:,}"
            alike = f"{count(rows - exact, 'near duplicate')}" if given[judged].picture else ""
            alike = alike or f"{rows - exact:,} but for case and spacing"
            says = f"Of {count(len(ours.exact), 'row')} of {judged}, {whose} can be found in {where} too"
            says += f" ({exact:,} exactly, {alike})."
            yield Finding(f"{says} Remove them, or the score on {judged} is too good.", rows)


def _shared(train: Split) -> Iterator[Finding]:
    """Texts of pairs that stand under several pictures."""
    assert train.picture is not None
    role = next(iter(train.keys.blank))
    pairs = np.stack([train.keys.parts[role].exact, train.keys.parts[train.picture].exact], axis=1)
    texts, pictures = np.unique(np.unique(pairs, axis=0)[:, 0], return_counts=True)
    shared = texts[pictures > 1]
    if len(shared):
        stand = "stands" if len(shared) == 1 else "stand"
        says = f"{count(len(shared), 'caption')} of train {stand} under more than one picture;"
        rows = int(np.isin(train.keys.parts[role].exact, shared).sum())
        yield Finding(f"{says} the loss does not count them as negatives.", rows)


def _conflicts(train: Split, kind: Kind) -> Iterator[Finding]:
    same = train.whole(kind)
    # Two pictures may look the same at a glance, as digits do, and differ all the same.
    _, text = np.unique(same.exact if train.picture else same.normal, return_inverse=True)
    _, target = np.unique(train.ids, axis=0, return_inverse=True)
    pairs = np.unique(text.astype(np.int64) * len(train.rows) + target.reshape(-1))
    torn = np.bincount(pairs // len(train.rows)) > 1
    rows = int(torn[text].sum())
    if rows:
        texts = count(int(torn.sum()), train.what)
        says = f"In train {texts} can be found with different labels ({count(rows, 'row')})."
        yield Finding(f"{says} No model gets all of them right.", rows)


def _lookalikes(labels: Labels, total: np.ndarray) -> Iterator[Finding]:
    alike: dict[str, list[int]] = {}
    for i, name in enumerate(labels.names):
        alike.setdefault(normalised(name), []).append(i)
    for ids in alike.values():
        if len(ids) > 1:
            shown = shown_names([labels.names[i] for i in ids])
            says = f"{len(ids)} labels look like one: {shown}."
            says += " They differ in case or spaces only; unless that is meant, make them one in the files."
            yield Finding(says, int(total[ids].sum()))


def _imbalance(labels: Labels, total: np.ndarray) -> Iterator[Finding]:
    most = int(total.argmax())
    share = total[most] / total.sum()
    if share > MOST:
        says = f"{share:.1%} of train has the label '{labels.names[most]}', so accuracy says little:"
        says += " judge by f1_macro, and consider `data.sampling: balanced`."
        yield Finding(says, int(total[most]))


def _rare(labels: Labels, total: np.ndarray) -> Iterator[Finding]:
    none = np.flatnonzero(total == 0)
    few = np.flatnonzero((total > 0) & (total < FEW))
    if len(none):
        yield Finding(f"{_labels(labels, none)} no row in train. A model can't learn what it never sees.", 0)
    if len(few):
        says = f"{_labels(labels, few)} fewer than {FEW} rows in train. That is hardly enough to learn from."
        yield Finding(says, int(total[few].sum()))


def _absent(labels: Labels, totals: Mapping[str, np.ndarray]) -> Iterator[Finding]:
    for split, total in totals.items():
        absent = np.flatnonzero((total == 0) & (totals["train"] > 0))
        if len(absent):
            says = f"{_labels(labels, absent)} no row in {split}. The score there tells nothing of such rows."
            yield Finding(says, int(totals["train"][absent].sum()))


def _labels(labels: Labels, ids: np.ndarray) -> str:
    """`The label 'joy' has`, `3 labels ('a', 'b', 'c') have`."""
    shown = shown_names([labels.names[i] for i in ids])
    return f"The label {shown} has" if len(ids) == 1 else f"{len(ids):,} labels ({shown}) have"


def _totals(ids: np.ndarray, labels: Labels) -> np.ndarray:
    """Rows of each label."""
    return ids.sum(0, dtype=np.int64) if ids.ndim == 2 else np.bincount(ids[ids >= 0], minlength=len(labels))
