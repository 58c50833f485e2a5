"""Which column plays which of the task's roles: named by the recipe, or told by its name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from hfadapt.data.labels import shown_names
from hfadapt.data.table import Table
from hfadapt.errors import DataError, Problem, did_you_mean

if TYPE_CHECKING:
    from hfadapt.data.prompts import Prompts
    from hfadapt.tasks.base import Role


@dataclass(frozen=True)
class Column:
    """The column that plays a role."""

    name: str
    origin: Literal["recipe", "inferred"]


def choose(
    named: Mapping[str, str],
    roles: Mapping[str, Role],
    tables: Sequence[Table],
    *,
    never: Collection[str] = (),
    prompts: Prompts | None = None,
) -> dict[str, Column]:
    """Role → column; roles that are optional and not named are left out. Every table has them all.

    named: role → column, as the recipe says; roles it names beyond `roles` are left alone.
    never: columns that are not guessed. The first table decides what is guessed.
    prompts: of a task that asks for classes; where captions are made of them, the role of a text is left out.

    Raises:
        DataError: a table can't be opened, lacks a column, or leaves the choice open.
    """
    found = _opened(tables)
    roles = _read(named, roles, tables[0], prompts) if prompts else roles
    columns = {role: Column(named[role], "recipe") for role in roles if role in named}
    problems = list(_twice(columns))
    # Targets and pictures first: the text is then the only other column of strings.
    for role in sorted(roles, key=lambda r: ("target", "image", "text").index(roles[r].holds)):
        if role not in columns and not roles[role].optional:
            used = {*never, *(column.name for column in columns.values())}
            chosen = _guess(role, roles[role], tables[0], used)
            if isinstance(chosen, Problem):
                problems.append(chosen)
            else:
                columns[role] = Column(chosen, "inferred")
    for table, names in zip(tables, found, strict=True):
        problems += _lacking(table.shown, names, columns)
    if problems:
        raise DataError(*problems)
    return {role: columns[role] for role in roles if role in columns}


def likely_targets(named: Mapping[str, str], roles: Mapping[str, Role], table: Table) -> set[str]:
    """The columns of a table that hold targets, by the recipe or by their names.

    Raises:
        DataError: the table can't be opened.
    """
    targets = {role: its for role, its in roles.items() if its.holds == "target"}
    return {name for role, its in targets.items() for name in [named.get(role), *_by_name(its, table.columns)] if name}


def _read(named: Mapping[str, str], roles: Mapping[str, Role], table: Table, prompts: Prompts) -> dict[str, Role]:
    """The roles that columns play: no text where captions are made of classes, and the class where it is needed."""
    (text,), (target,) = ([role for role, its in roles.items() if its.holds == what] for what in ("text", "target"))
    has_texts = text in named or bool(_by_name(roles[text], table.columns))
    has_classes = target in named or bool(_by_name(roles[target], table.columns))
    made = prompts.captions == "classes" or (prompts.captions is None and has_classes and not has_texts)
    if made and text in named:
        says = "The captions are made of the classes, so no column of texts is read."
        raise DataError(Problem(says, f"data.{text}", hint="Remove it, or `captions: classes`."))
    needed = made or prompts.new is not None
    read = {role: its for role, its in roles.items() if not (made and role == text)}
    return read | {target: replace(roles[target], optional=not needed)}


def _opened(tables: Iterable[Table]) -> list[dict[str, bool]]:
    found: list[dict[str, bool]] = []
    problems: list[Problem] = []
    for table in tables:
        try:
            found.append(table.columns)
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(*problems)
    return found


def _guess(role: str, its: Role, table: Table, used: Collection[str]) -> str | Problem:
    free = {name: text for name, text in table.columns.items() if name not in used}
    likely = []
    if its.holds == "image" and (pictures := [name for name in free if name in table.pictures]):
        likely = pictures if len(pictures) == 1 else _by_name(its, pictures)
    likely = likely or _by_name(its, free)
    if not likely and its.holds == "text":
        likely = [name for name, is_text in free.items() if is_text]
    if len(likely) == 1:
        return likely[0]
    says = f"No column is clearly the {role}. Columns found: {shown_names(list(table.columns))}."
    return Problem(where=table.shown, field=f"data.{role}", says=says, hint=f"Name it: `data.{role}: COLUMN`.")


def _by_name(role: Role, columns: Iterable[str]) -> list[str]:
    """The columns with the first usual name that any of them has; several where only case differs."""
    names = list(columns)
    for guess in role.guesses:
        if guess in names:
            return [guess]
        if alike := [name for name in names if name.lower() == guess.lower()]:
            return alike
    return []


def _lacking(shown: str, names: Mapping[str, bool], columns: Mapping[str, Column]) -> Iterable[Problem]:
    for role, column in columns.items():
        if column.name not in names:
            near = did_you_mean(column.name, names, listing=False)
            found = f"Columns found: {shown_names(list(names))}."
            if column.origin == "recipe":  # What is to be mended is there.
                says, where = f"There is no column '{column.name}' in '{shown}'.", ""
            else:
                says, where = f"There is no column '{column.name}'.", shown
            yield Problem(f"{says} {found}", f"data.{role}", where, near)


def _twice(columns: Mapping[str, Column]) -> Iterable[Problem]:
    names = [column.name for column in columns.values()]
    for role, column in columns.items():
        if names.index(column.name) != list(columns).index(role):
            yield Problem(field=f"data.{role}", says=f"Column '{column.name}' is named for two roles.")
