"""Every notebook runs, in a small setting, without a word of complaint; and is committed as it ran."""

from __future__ import annotations

import ast
import base64
import os
import time

import nbformat
import psutil
import pytest
from executing import FOLDER, KERNEL, complaints, execute, parameters, read, small
from hub.client import environment
from hub.server import Hub

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MOST_PICTURES = 300_000
"""Bytes of all pictures of a notebook."""

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_they_are_numbered():
    assert [path.name[:3] for path in NOTEBOOKS] == [f"{number:02}_" for number in range(1, len(NOTEBOOKS) + 1)]
    assert len(NOTEBOOKS) >= 7


@pytest.mark.slow
@every_notebook
def test_it_runs(path, nursery, tmp_path):
    notebook = small(read(path))
    with Hub() as hub:
        # The Hub's stand-in for those that say so; the others have neither a network nor a token.
        its = environment(hub, tmp_path / "hub") if notebook.metadata.get("hub") else {}
        told = dict(its.items() - os.environ.items())
        # What is said where libraries are imported shows in the first, whose kernel is as `make notebooks` starts it.
        done = execute(notebook, tmp_path, nursery if path != NOTEBOOKS[0] else None, **told)
        assert list(complaints(done)) == []
        assert bool(hub.repos) == bool(told), "only a notebook whose metadata say `hub` publishes, and it does"


@every_notebook
def test_it_is_committed_as_it_ran(path):
    notebook = read(path)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert sum(bool(cell.outputs) for cell in code) >= len(code) // 2 > 0
    assert notebook.metadata.kernelspec == KERNEL and "widgets" not in notebook.metadata
    assert list(complaints(notebook)) == []


@every_notebook
def test_its_pictures_are_small(path):
    outputs = [output for cell in read(path).cells for output in cell.get("outputs", [])]
    pictures = [text for output in outputs for kind, text in output.get("data", {}).items() if kind == "image/png"]
    assert sum(len(base64.b64decode(text)) for text in pictures) < MOST_PICTURES


@every_notebook
def test_its_knobs_have_smaller_values(path):
    notebook = read(path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert "mkdtemp" in code[0].source, "the first cell goes to a folder of its own"
    assert code[1] is parameters(notebook)
    knobs = ast.parse(code[1].source).body
    assert all(isinstance(knob, ast.Assign) for knob in knobs)
    named = {target.id for knob in knobs for target in knob.targets}
    assert code[1].metadata["small"] and set(code[1].metadata["small"]) <= named


def made(source: str):
    """A notebook of one cell, below its knobs."""
    knobs = nbformat.v4.new_code_cell("STEPS = 100", metadata={"tags": ["parameters"], "small": {"STEPS": 2}})
    return nbformat.v4.new_notebook(cells=[knobs, nbformat.v4.new_code_cell(source)])


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import sys; print('careful', file=sys.stderr)", "stderr"),
        ("import warnings; warnings.warn('old')", "stderr"),
        ("import os; os.write(2, b'careful')", "stderr"),
        ("import transformers; transformers.logging.get_logger('transformers').warning('old')", "stderr"),
        ("import tempfile; print(tempfile.mkdtemp())", "names"),
        ("import os; os.path.expanduser('~/models')", "names"),
        ("print('50%\\x1b[K')", "moves the cursor"),
        ("!python -c 'raise SystemError'", "failed"),
        ("print(STEPS)", None),
    ],
)
def test_what_is_amiss_is_found(source, says, nursery, tmp_path):
    done = execute(small(made(source)), tmp_path, nursery)
    found = list(complaints(done))
    assert any(says in one for one in found) if says else (found, done.cells[1].outputs[0].text) == ([], "2\n")


def test_nothing_is_left_of_a_kernel(nursery, tmp_path):
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    source = f"import subprocess, sys\nchild = subprocess.Popen([sys.executable, '-c', {code!r}], stdout=-1)\n"
    done = execute(small(made(f"{source}print(int(child.stdout.readline()))")), tmp_path, nursery)
    pid, end = int(done.cells[1].outputs[0].text), time.monotonic() + 20
    while psutil.pid_exists(pid):
        assert time.monotonic() < end
        time.sleep(0.01)
