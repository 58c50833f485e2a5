"""Planted mistakes: what `hfadapt plan` says of each, word for word, all of it at once.

A file of `tests/mistakes` begins with `#> ` lines, one for each problem in the order in which they come.
`#$ ` lines are arguments of the command line. `#! ` says what is still wrong with hfadapt there: the
lines above it are what it should say, and the test has to fail until it does.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hfadapt import cli

FOLDER = Path(__file__).parent / "mistakes"
FILES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


@pytest.fixture(scope="module")
def place(tmp_path_factory, backbone) -> Path:
    """A copy of the mistakes, the small backbone `tiny`, models that lack something, and files that git would mangle."""
    place = tmp_path_factory.mktemp("mistakes") / "here"
    shutil.copytree(FOLDER, place)
    tiny = backbone("bert")
    (place / "tiny").symlink_to(tiny)
    for name, left_out in (("weightless", "model.safetensors"), ("wordless", "tokenizer*"), ("broken", "none")):
        shutil.copytree(tiny, place / "models" / name, ignore=shutil.ignore_patterns(left_out))
    (place / "models/broken/config.json").write_text('{"model_type": "bert"')
    (place / "models/unknown").mkdir()
    (place / "models/unknown/config.json").write_text('{"model_type": "brainwave"}')
    rows = "text,label\nCafé froid.,bad\nVery good.,good\n" * 6
    (place / "data/latin1.csv").write_bytes(rows.encode("latin-1"))
    (place / "data/utf16.csv").write_bytes(rows.encode("utf-16"))
    (place / "data/broken.parquet").write_bytes(b"PAR1 and then nothing PAR1")
    write_parquet(place / "data/one_class.parquet", {"text": [f"Text {i}." for i in range(12)], "label": ["good"] * 12})
    return place


def write_parquet(path: Path, columns: dict[str, list[str]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path)


@pytest.fixture
def say(place, monkeypatch, capsys):
    """Runs a verb of the command line where the mistakes are: its exit status, its output, its complaints."""
    monkeypatch.chdir(place)

    def run(*argv: str) -> tuple[int, str, list[str]]:
        with pytest.raises(SystemExit) as end:
            cli.main(argv)
        out, err = capsys.readouterr()
        return end.value.code, out, err.splitlines()

    return run


def marked(name: str, mark: str) -> list[str]:
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    return [line.removeprefix(mark) for line in lines if line.startswith(mark)]


def case(name: str):
    wrong = " ".join(marked(name, "#! "))
    return pytest.param(name, marks=pytest.mark.xfail(reason=wrong, strict=True) if wrong else ())


def test_there_are_many():
    assert len(FILES) >= 100
    assert all(marked(name, "#> ") for name in FILES)


@pytest.mark.parametrize("name", map(case, FILES))
def test_mistake(name, say):
    status, out, complaints = say("plan", f"{name}.yaml", *marked(name, "#$ "))
    assert complaints == marked(name, "#> ")
    assert (status, out) == (2, "")
