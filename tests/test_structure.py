"""The promises of the layout: imports point down, files and functions stay small, start-up stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "hfadapt"
FILES = sorted(PACKAGE.rglob("*.py"))

LAYERS = [
    {"errors", "section", "kind", "noise", "__init__"},
    {"discover", "upstream"},
    {"settings", "push", "data.text", "data.images", "data.near", "data.augmenting", "data.prompts"},
    {"backbones"},
    {"tasks", "methods"},
    {"recipe"},
    {"reading", "data", "scoring", "tiny", "gallery", "builtin"},
    {"folder", "drafting"},
    {"training"},
    {"pretraining", "misfits"},
    {"planning", "metering"},
    {"zero_shot", "keeping"},
    {"judging"},
    {"estimating", "showing", "console", "exported"},
    {"card", "contract"},
    {"adapting"},
    {"using", "doctor"},
    {"exporting", "publishing"},
    {"launching"},
    {"verbs"},
    {"cli"},
    {"run", "__main__"},
]
"""From the floor up; a module imports from its own layer's package or from lower layers."""


def layer_of(module: str) -> int:
    found = [i for i, names in enumerate(LAYERS) if module in names]
    assert found, f"{module} has no place in the layers"
    return found[0]


def imports(path: Path) -> set[str]:
    """The top-level modules of hfadapt that a file imports anywhere, type checking aside."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "hfadapt":
            parts = node.module.split(".")
            found |= {_placed(parts[1:])} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("hfadapt.")}
    return found - {"__version__"}


def _placed(parts: list[str]) -> str:
    """The name by which the layers place a module: a package's file where it has a place of its own."""
    return next((name for names in LAYERS for name in names if name == ".".join(parts[:2])), parts[0])


def test_imports_point_down():
    assert len(FILES) > 40
    wrong = []
    for path in FILES:
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        for other in imports(path) - {own}:
            if layer_of(other) >= layer_of(own):
                wrong.append(f"{path.relative_to(ROOT)} imports {other}")
    assert not wrong


def test_tasks_and_adaptations_do_not_know_each_other():
    for path in FILES:
        part = path.relative_to(PACKAGE).parts[0]
        if part in {"tasks", "methods"}:
            assert not imports(path) & {"tasks", "methods"} - {part}, path


def test_files_and_functions_stay_small():
    long = []
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > 400:
            long.append(str(path))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno > 60:
                long.append(f"{path}:{node.lineno} {node.name}")
    assert not long


def test_only_the_command_line_prints_or_exits():
    for path in FILES:
        if path.name == "cli.py" or path.parent.name == "verbs":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in {"print", "sys.exit", "exit", "quit"}, path


@pytest.mark.parametrize("module", ["hfadapt", "hfadapt.cli", "hfadapt.reading", "hfadapt.gallery", "hfadapt.recipe"])
def test_light_modules_import_nothing_heavy(module):
    heavy = ("torch", "transformers", "datasets", "peft", "evaluate", "sklearn", "numpy", "pandas")
    code = f"import {module}, sys; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_in_the_repository_speaks_of_this_machine():
    import re

    telling = re.compile(r"/home/\w|/root/|index-url|find-links|/work/")
    for pattern in ("*.py", "*.md", "*.yaml", "*.toml", "*.txt", "Makefile"):
        for path in ROOT.rglob(pattern):
            inside = path.relative_to(ROOT).parts
            if inside[0].startswith(".venv") or inside[0] == "runs" or path == Path(__file__):
                continue
            assert not telling.search(path.read_text(encoding="utf-8")), path
