"""The fields of an upstream dataclass, read from its installed source without importing it.

`import transformers.training_args` costs seconds and `import peft` more, yet a misspelt
`learning_rate` should be told at once, with upstream's own names. Reading the source is exact for
whatever version is installed; a test compares the result with the imported class.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hfadapt.errors import did_you_mean, misfit

CALLED = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "list": "a list",
    "dict": "a mapping",
}
"""What a person calls the types of a recipe's values."""


@dataclass(frozen=True)
class Field:
    """One field of an upstream dataclass."""

    name: str
    kinds: frozenset[str]
    """What a value may be: `int`, `float`, `bool`, `str`, `list`, `dict`, `None`; empty: anything."""
    words: tuple[str, ...] = ()
    """The accepted strings, where they are enumerated."""
    default: Any = None
    """The default where it is a literal."""
    help: str = ""


@cache
def fields(dotted: str, *enums: str) -> dict[str, Field]:
    """The fields of `package.module:Class`; `enums` names modules whose string enums it uses.

    Inherited ones count where the parent lies in the same subpackage: `peft.tuners` has AdaLoRA's, LoRA.

    Raises:
        LookupError: the package or the class is not installed.
    """
    module, _, name = dotted.partition(":")
    words: dict[str, tuple[str, ...]] = {}
    for where in (module, *enums):
        for node in _classes(where).values():
            words[node.name] = tuple(_strings(node))
    lineage = _lineage(module, name, ".".join(module.split(".")[:2]))
    if not lineage:
        raise LookupError(f"{module} has no class {name}")
    listed = [_field(node, words) for found in lineage for node in found.body if isinstance(node, ast.AnnAssign)]
    return {field.name: field for field in listed}


def wrong(values: Mapping[str, Any], known: Mapping[str, Field], owner: str) -> Iterable[tuple[str, str]]:
    """(key, sentence) for each key that `owner` does not have and each value of the wrong type."""
    for key, value in values.items():
        if key not in known:
            yield key, f"{owner} has no '{key}'. {did_you_mean(key, known, listing=False)}".strip()
        elif says := _mismatch(value, known[key]):
            yield key, says


def _mismatch(value: Any, field: Field) -> str:
    kind = "None" if value is None else type(value).__name__
    accepted = field.kinds | ({"int"} if "float" in field.kinds else set())
    if accepted and kind not in accepted:
        expected = field.kinds - ({"None", "int"} if "float" in field.kinds else {"None"})
        called = " or ".join(called for name, called in CALLED.items() if name in expected)
        return misfit(value, f"it should be {called}")
    if field.words and kind == "str" and field.kinds <= {"str", "None"} and value not in field.words:
        return f"'{value}' is not accepted. {did_you_mean(value, field.words)}"
    return ""


def _lineage(module: str, name: str, within: str) -> list[ast.ClassDef]:
    """A class of a subpackage and those that it inherits from there, the eldest first."""
    if not f"{module}.".startswith(f"{within}."):
        return []
    if found := _classes(module).get(name):
        parents = [base.id for base in found.bases if isinstance(base, ast.Name)]
        return [*(older for parent in parents for older in _lineage(module, parent, within)), found]
    for node in _source(module):
        if isinstance(node, ast.ImportFrom) and name in (alias.name for alias in node.names):
            package = module if _path(module).is_dir() else module.rpartition(".")[0]
            source = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            return _lineage(source, name, within)
    return []


def _classes(module: str) -> dict[str, ast.ClassDef]:
    """The classes at the top of a module's source."""
    return {node.name: node for node in _source(module) if isinstance(node, ast.ClassDef)}


@cache
def _source(module: str) -> list[ast.stmt]:
    """What stands at the top of a module's source, found without importing any parent package."""
    path = _path(module)
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8")).body


def _path(module: str) -> Path:
    """The folder of a package, or the file of a module without its suffix."""
    package, *rest = module.split(".")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise LookupError(f"{package} is not installed")
    return Path(spec.submodule_search_locations[0]).joinpath(*rest)


def _strings(enum: ast.ClassDef) -> Iterable[str]:
    for node in enum.body:
        value = node.value if isinstance(node, ast.Assign) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value.value


def _field(node: ast.AnnAssign, enums: Mapping[str, tuple[str, ...]]) -> Field:
    kinds: set[str] = set()
    words: tuple[str, ...] = ()
    for part in _alternatives(node.annotation):
        name = ast.unparse(part.value if isinstance(part, ast.Subscript) else part)
        if name == "Literal" and isinstance(part, ast.Subscript):
            literals = ast.literal_eval(part.slice)
            literals = literals if isinstance(literals, tuple) else (literals,)
            kinds |= {type(x).__name__ for x in literals}
            words += tuple(x for x in literals if isinstance(x, str))
        elif name in {"int", "float", "bool", "str", "list", "dict", "None"}:
            kinds.add(name)
        elif enums.get(name):
            kinds.add("str")
            words += enums[name]
        else:
            kinds.add("dict")
    default, text = None, ""
    if isinstance(node.value, ast.Call):
        for keyword in node.value.keywords:
            if keyword.arg == "default" and isinstance(keyword.value, ast.Constant):
                default = keyword.value.value
            elif keyword.arg == "metadata" and isinstance(keyword.value, ast.Dict):
                text = _help(keyword.value)
    elif isinstance(node.value, ast.Constant):
        default = node.value.value
    assert isinstance(node.target, ast.Name)
    return Field(node.target.id, frozenset(kinds), words, default, text)


def _alternatives(annotation: ast.expr) -> list[ast.expr]:
    """`int | None`, `Optional[int]` and `Union[int, None]` as [int, None]."""
    if isinstance(annotation, ast.BinOp):
        return _alternatives(annotation.left) + _alternatives(annotation.right)
    if isinstance(annotation, ast.Subscript):
        name = ast.unparse(annotation.value)
        if name == "Optional":
            return [*_alternatives(annotation.slice), ast.Constant(None)]
        if name == "Union" and isinstance(annotation.slice, ast.Tuple):
            return [part for element in annotation.slice.elts for part in _alternatives(element)]
    return [annotation]


def _help(metadata: ast.Dict) -> str:
    for key, value in zip(metadata.keys, metadata.values, strict=True):
        if isinstance(key, ast.Constant) and key.value == "help":
            try:
                return " ".join(str(ast.literal_eval(value)).split())
            except ValueError:
                return ""
    return ""
