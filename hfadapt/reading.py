"""Text and overrides → Recipe, with the line of every value."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from hfadapt import discover
from hfadapt.errors import Problem, RecipeError, did_you_mean, misfit, one_line
from hfadapt.recipe import FORMAT, Recipe
from hfadapt.section import Section, Variant
from hfadapt.upstream import CALLED

COMMAND_LINE = "command line"
_MOST_BYTES = 64_000
_DEEPEST = 20


@dataclass
class _Document:
    """Plain values, and where each came from by its dotted name."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def read(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a file, changed by `section.key=value` overrides; the last one wins.

    Raises:
        RecipeError: everything that is wrong with the file and the overrides.
    """
    path = _file(path)
    try:
        raw = path.read_bytes()
        if len(raw) > _MOST_BYTES:
            raise RecipeError(Problem(f"The file has {len(raw):,} bytes; a recipe has a few hundred.", where=str(path)))
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise RecipeError(Problem(f"The recipe cannot be read: {error.strerror}.", where=str(path))) from None
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise RecipeError(
            Problem("The recipe is not UTF-8 text.", where=f"{path}:{line}", hint="Save it as UTF-8.")
        ) from None
    document = parse(text, str(path))
    for override in overrides:
        _override(document, override)
    return build(document, name=path.stem, text=text)


def parse(text: str, place: str) -> _Document:
    """The values of a YAML 1.2 text and their lines; `2e-5` is a number, `no` is a word.

    Raises:
        RecipeError: the text is not YAML, or not a mapping.
    """
    document = _Document()
    node = _compose(text, place)
    if node is None:
        raise RecipeError(Problem("The recipe is empty.", where=place, hint=_SHORTEST))
    if node.id != "mapping":
        raise RecipeError(Problem("A recipe is a mapping of sections.", where=place, hint=_SHORTEST))
    document.values = _plain(node, "", place, document, 0)
    return document


_SHORTEST = "The shortest has 'task', 'model' and 'data'."


def _file(path: str | Path) -> Path:
    path = Path(path)
    if path.is_dir():
        raise RecipeError(Problem("This is a folder, not a recipe.", where=str(path)))
    if path.exists():
        return path
    siblings = [str(p) for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    shipped = Path(__file__).parent / "recipes" / f"{path.name}"
    hint = did_you_mean(str(path), siblings, listing=False)
    if not hint and shipped.with_suffix(".yaml").exists():
        hint = f"Copy the one that comes with hfadapt: `hfadapt cp {path.stem} {path.stem}.yaml`."
    raise RecipeError(Problem("There is no such file.", where=str(path), hint=hint or "`hfadapt list` names recipes."))


def _compose(text: str, place: str) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        return YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        says, mark = _yaml_says(error)
        line = f":{mark.line + 1}" if mark else ""
        says = one_line(f"This is not YAML: {says}.")
        raise RecipeError(Problem(says, where=f"{place}{line}", hint=_yaml_hint(text, mark))) from None
    except (YAMLError, RecursionError, ValueError) as error:
        says = "it is nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0]
        raise RecipeError(Problem(one_line(f"This is not YAML: {says}."), where=place)) from None


_OPENED = {
    "found unexpected end of stream": "a quote opens here and is not closed",
    r"expected ',' or '[]}]', but got '.+'": "a bracket opens here and is not closed, or a comma is missing",
    "could not find expected ':'": "the line is neither `key: value` nor `- item`",
}
"""ruamel's words for mistakes that it notices lines later, and ours."""
_HERE = {
    "mapping values are not allowed here": "':' cannot stand here; the line is indented too far, or lacks quotes",
    "sequence entries are not allowed here": "a list cannot begin here; write it as [a, b] or on lines of its own",
    "expected <block end>, but found '<scalar>'": "text follows a closed quote",
    "expected <block end>, but found '(<block mapping start>|-|[?])'": "the indentation fits no line above",
    r"expected .+, but found '([]},])'": r"'\1' cannot stand here",
    r"found character '\\t' that cannot start any token": "a tab cannot stand here",
    "found character '(.)' that cannot start any token": r"a value in no quotes cannot begin with '\1'",
    "found undefined alias '.+'": "a value in no quotes cannot begin with '*'",
    "found unknown escape character '(.)'": r"'\\\1' is no escape; in single quotes a backslash is a backslash",
    "expected the node content, but found '<stream end>'": "the text ends where a value should stand",
    "but found another document": "a recipe is one document, and '---' begins another",
}
"""ruamel's words for mistakes where they stand, and ours."""


def _yaml_says(error: Any) -> tuple[str, Any]:
    """What is wrong with a text that is not YAML, and the mark of where."""
    problem = error.problem or error.context
    for pattern, ours in _OPENED.items():
        if error.context_mark and re.fullmatch(pattern, problem):
            return ours, error.context_mark
    for pattern, ours in _HERE.items():
        if match := re.fullmatch(pattern, problem):
            return match.expand(ours), error.problem_mark or error.context_mark
    return problem, error.problem_mark or error.context_mark


def _yaml_hint(text: str, mark: Any) -> str:
    lines = text.splitlines()
    line = lines[mark.line] if mark and mark.line < len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return "Indent with spaces, not tabs."
    if line.count(": ") > 1 and not re.search(r"[{\[\"']", line):
        return "Put quotes around a value that holds ': '."
    return ""


def _plain(node: Any, name: str, place: str, document: _Document, depth: int) -> Any:
    """A node as plain values; what YAML allows and a recipe does not goes to the problems."""
    where = f"{place}:{node.start_mark.line + 1}"
    document.origins.setdefault(name, where)
    if node.anchor or depth > _DEEPEST:
        says = "Anchors and aliases are not part of a recipe." if node.anchor else "It is nested too deeply."
        document.problems.append(Problem(says, name, where, "Write the value out." if node.anchor else ""))
        return None
    if node.id != "scalar" and node.tag not in {"tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"}:
        document.problems.append(Problem(f"The tag '{node.tag}' is not part of a recipe.", name, where))
        return None
    if node.id == "sequence":
        return [_plain(item, f"{name}.{i}", place, document, depth + 1) for i, item in enumerate(node.value)]
    if node.id == "mapping":
        return _mapping(node, name, place, document, depth)
    return _scalar(node, name, where, document)


def _mapping(node: Any, name: str, place: str, document: _Document, depth: int) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        where = f"{place}:{key_node.start_mark.line + 1}"
        key = key_node.value if key_node.id == "scalar" else None
        child = f"{name}.{key}" if name else str(key)
        if key is None or not isinstance(key, str) or key == "<<":
            document.problems.append(Problem("A key must be a plain word.", name, where))
        elif key in values:
            first = document.origins[child].rpartition(":")[2]
            document.problems.append(Problem(f"'{key}' stands twice; first on line {first}.", child, where))
        else:
            document.origins[child] = where
            values[key] = _plain(value_node, child, place, document, depth + 1)
    return values


def _scalar(node: Any, name: str, where: str, document: _Document) -> Any:
    tag = node.tag.rpartition(":")[2]
    text = node.value
    try:
        if tag == "null":
            return None
        if tag == "bool":
            return text.lower() in {"true", "yes", "on", "y"}
        if tag == "int":
            digits = text.replace("_", "")
            return int(digits, 0) if re.match(r"[-+]?0[xob]", digits) else int(digits)
        if tag == "float":
            return float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError:
        return text
    if tag in {"str", "timestamp", "merge", "value"}:
        return text
    document.problems.append(Problem(f"The tag '{node.tag}' is not part of a recipe.", name, where))
    return None


def _override(document: _Document, override: str) -> None:
    """Apply `dotted.name=YAML`; assigning a section replaces it, its variant's short form grows keys."""
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(re.fullmatch(r"\w[\w-]*", key) for key in keys):
        problem = Problem(f"'{override}' is not an override.", where=COMMAND_LINE, hint="Write section.key=value.")
        document.problems.append(problem)
        return
    try:
        value = _Document()
        node = _compose(text, COMMAND_LINE) if text.strip() else None
        plain = _plain(node, "", COMMAND_LINE, value, 0) if node is not None else None
    except RecipeError as error:
        document.problems += [Problem(p.says, dotted, COMMAND_LINE, p.hint) for p in error.problems]
        return
    document.problems += [Problem(p.says, dotted, COMMAND_LINE, p.hint) for p in value.problems]
    section = document.values
    for depth, key in enumerate(keys[:-1]):
        inner = section.get(key)
        if not isinstance(inner, dict):
            short = {"task": "type", "adapt": "method", "model": "name"}.get(key) if depth == 0 else None
            inner = {short: inner} if short and isinstance(inner, str) else {}
            document.origins.setdefault(".".join(keys[: depth + 1]), COMMAND_LINE)
        section[key] = inner = dict(inner)
        section = inner
    section[keys[-1]] = plain
    inside = dotted.strip() + "."
    for name in [name for name in document.origins if name.startswith(inside)]:
        del document.origins[name]
    document.origins[dotted.strip()] = COMMAND_LINE


def build(document: _Document, name: str, text: str) -> Recipe:
    """The recipe that plain values describe.

    Raises:
        RecipeError: everything that is wrong with them, each with its place.
    """
    problems = list(document.problems)
    version = document.values.get("hfadapt", FORMAT)
    if type(version) is not int or version != FORMAT:
        says = f"This recipe is of format {version!r}; this hfadapt reads format {FORMAT}."
        problems.append(Problem(says, "hfadapt", _where(document, ["hfadapt"])))
    try:
        recipe = Recipe.model_validate({**document.values, "hfadapt": FORMAT})
    except ValidationError as error:
        refused = [p.field for p in document.problems if p.field]
        problems += [p for p in _problems(error, document) if not any(_touch(p.field, field) for field in refused)]
    if problems:
        raise RecipeError(*sorted(problems, key=_line))
    recipe._name, recipe._text = name, text
    recipe._origins = document.origins
    return recipe


def _touch(one: str, other: str) -> bool:
    """Whether two dotted fields are the same, or one is inside the other."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def _problems(error: ValidationError, document: _Document) -> Iterable[Problem]:
    """pydantic's errors as ours: the place, the dotted field, a sentence about the value.

    A value that fits no arm of a union comes as one error an arm; they become one sentence.
    """
    found: dict[str, Problem] = {}
    for detail in error.errors():
        loc = [str(part) for part in detail["loc"]]
        loc = _spelt(loc, document.values)
        says = _sentence(detail, loc, document)
        field = ".".join(loc)
        if (first := found.get(field)) and detail["type"] not in _OWN:
            says = f"{first.says.removesuffix('.')}, or {says.rpartition('it should ')[2].removeprefix('be ')}"
        found[field] = Problem(says, field, _where(document, loc))
    # A value that has the right shape for one arm of a union is not told of the others.
    return [p for field, p in found.items() if not any(other.startswith(f"{field}.") for other in found)]


def _spelt(loc: list[str], values: Any) -> list[str]:
    """A place as the file spells it, without what pydantic adds for each arm of a union."""
    kept: list[str] = []
    for part in loc:
        inside = isinstance(values, dict) and part in values
        if not inside and (part in _ARMS or re.match(r"(constrained-|list\[|dict\[|literal\[|function-)", part)):
            continue
        kept.append(part)
        if isinstance(values, list) and part.isdigit() and int(part) < len(values):
            values = values[int(part)]
        else:
            values = values[part] if inside else None
    return kept


_OWN = {"refused", "peft", "unknown", "untagged", "both", "slice", "encoding"}
"""The errors of our own validators; their messages are sentences."""
_ARMS = {"float", "str", "int", "constrained-str", "nullable"}
"""What pydantic adds to a place for each arm of a union."""


def _sentence(detail: Any, loc: list[str], document: _Document) -> str:
    kind, value = detail["type"], detail.get("input")
    if kind == "extra_forbidden":
        owner, known = _owner(loc, document)
        hint = did_you_mean(loc[-1], known) if len(known) > 1 else "It has no options."
        return f"{owner} has no '{loc[-1]}'. {hint}"
    if kind == "missing":
        return f"'{loc[-1]}' is missing."
    message: str = detail["msg"].removeprefix("Value error, ").replace("Input should", "it should")
    if kind in _OWN:
        return message
    message = re.sub("^(String|List|Dictionary) should", "it should", message).partition(" after validation")[0]
    message = f"it should be {_EXPECTED[kind]}" if kind in _EXPECTED else f"{message[0].lower()}{message[1:]}"
    if loc == ["model"]:
        message = "it should be the name of a checkpoint, or a mapping"
    if loc == ["data"] and isinstance(value, str):
        message += f" such as `{{path: {one_line(value)}}}`"
    return misfit(value, message)


_EXPECTED = {
    "model_type": CALLED["dict"],
    "dict_type": CALLED["dict"],
    "list_type": CALLED["list"],
    "string_type": CALLED["str"],
    "string_unicode": "a text of whole characters",
    "int_type": CALLED["int"],
    "float_type": CALLED["float"],
    "bool_type": CALLED["bool"],
}
"""pydantic's types of error, and what a person calls the type that it expected."""


def _owner(loc: list[str], document: _Document) -> tuple[str, list[str]]:
    """The section that an unknown key stands in, and the keys it knows."""
    if len(loc) == 1:
        return "A recipe", list(Recipe.model_fields)
    section: Any = Recipe
    values: Any = document.values
    for part in loc[:-1]:
        values = values[int(part) if isinstance(values, list) else part]
        section = section if part.isdigit() else _section(_fields(section)[part].annotation, values)
    if issubclass(section, Variant):
        return f"'{section.name}'", [section.tag, *_fields(section)]
    return section.__name__, list(_fields(section))


def _fields(section: type[Section]) -> dict[str, Any]:
    """Its fields as a recipe spells them."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


def _section(annotation: Any, value: Any) -> Any:
    """The kind of section that a value was read as; annotation: of the field that holds it, or a list of it."""
    kinds = [annotation, *get_args(annotation)]
    section = next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section))
    if issubclass(section, Variant):
        named = value.get(section.tag) if isinstance(value, dict) else value
        found = discover.variants(section.__module__.rpartition(".")[0], section)
        return next(kind for name, kind in found.items() if name == named or (not named and kind.implied_by in value))
    return section


def _where(document: _Document, loc: list[str]) -> str:
    """The place of a field, or of the nearest section around it that the file spells."""
    for end in range(len(loc), -1, -1):
        if place := document.origins.get(".".join(loc[:end])):
            return place
    return ""


def _line(problem: Problem) -> tuple[bool, int]:
    line = problem.where.rpartition(":")[2]
    return (problem.where == COMMAND_LINE, int(line) if line.isdigit() else 0)
