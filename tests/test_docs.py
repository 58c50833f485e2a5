"""The documentation builds without a warning, names everything, and what it shows runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import hfadapt
from hfadapt.cli import main
from hfadapt.reading import build, parse

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))
pages = import_module("pages")

BASE = {
    "task": "task: text-classification",
    "model": "model: builtin/vit-nano",
    "data": "data: {path: rows.csv}",
}
SHORT = {"run": ["train.max_steps=2"]}
"""What a command is given besides, so that it is over soon."""
ELSEWHERE = re.compile(r"make |pip |accelerate launch |hfadapt run .*--processes ")
"""What whoever starts the tests does, and what `test_processes.py` does: several processes, and launchers."""
BLOCKS = re.compile(r"^```(\w+)\n(.*?)^```", re.S | re.M)


def test_it_builds_strictly(tmp_path):
    done = subprocess.run(
        # All that `make docs` does, but for the writing of pages.
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-b", "dummy", str(DOCS), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / ".doctrees" / "reference" / "methods" / "lora.doctree").exists()


def test_every_key_of_a_recipe_has_a_meaning_a_default_and_an_example():
    parts = re.split(r"^(?=###? `)", pages.recipe_page(), flags=re.M)[1:]
    assert len(parts) > 40
    for part in parts:
        key = part.split("`")[1]
        meaning = part.splitlines()[2]
        assert len(meaning) > 10 and "Default: " in part, key
        assert key in pages.EXAMPLES, f"{key} has no example in docs/pages.py"
    assert {part.split("`")[1] for part in parts} == pages.EXAMPLES.keys()


@pytest.mark.parametrize("key", pages.EXAMPLES)
def test_every_example_reads(key):
    section = key.split(".")[0]
    assert key == section or key.split(".")[1] in pages.EXAMPLES[key], "the example must show its key"
    _read(pages.EXAMPLES[key])


def test_every_public_name_is_documented():
    shown = (DOCS / "api.md").read_text(encoding="utf-8")
    for name in hfadapt.__all__:
        assert re.search(rf"auto\w+:: {name}$", shown, re.M), name
        assert getattr(hfadapt, name).__doc__, name


def test_every_task_and_method_says_when_to_use_it():
    told = {name: page for name, page in pages.pages().items() if name.startswith(("tasks/", "methods/"))}
    lacking = [name for name, page in told.items() if not name.endswith("index") and "When to use:" not in page]
    assert lacking == []


def _read(text: str) -> Any:
    """A recipe from some of its sections."""
    given = {line.split(":")[0] for line in text.splitlines() if re.match(r"\w+:", line)}
    whole = "\n".join([line for name, line in BASE.items() if name not in given] + [text])
    return build(parse(whole, "my.yaml"), "my", whole)


def _blocks(page: str) -> Iterator[SimpleNamespace]:
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    for language, code in BLOCKS.findall(text):
        yield SimpleNamespace(language=language, code=code)


@pytest.mark.parametrize("page", sorted(its.stem for its in DOCS.glob("*.md")))
def test_what_a_page_shows_runs(page, tmp_path, pictures, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": page}
    for block in _blocks(page):
        # A few drawn pictures in place of thousands.
        block.code = block.code.replace("builtin/scattered-digits", str(pictures))
        if block.language == "python":
            exec(compile(block.code, f"{page}.md", "exec"), names)
        elif block.language == "console":
            for line in block.code.splitlines():
                assert line.startswith("$ ")
                _command(line[2:])
        elif block.language == "yaml":
            name = re.match(r"# (\S+\.yaml)\n", block.code)
            if name:
                Path(name[1]).write_text(block.code, encoding="utf-8")
            _read(block.code)
        else:
            raise AssertionError(f"{page}.md shows {block.language}, which nothing here tries")


def _command(line: str) -> None:
    if ELSEWHERE.match(line):
        return
    words = shlex.split(line)
    assert words[0] == "hfadapt"
    with pytest.raises(SystemExit) as end:
        main([*words[1:], *SHORT.get(words[1], [])])
    assert end.value.code == 0, line
