"""Secrets and traces of this machine, planted all around a whole run: none is written, told or sent."""

from __future__ import annotations

from pathlib import Path

import pytest
from hub.whole import CANARIES, Whole, whole

OWN = "recipe.yaml"
"""The user's own text, as it is: what scoring and going on read, so it has to name the paths that are here."""
SECRETS = [name for name in CANARIES if name not in ("user", "host", "home")]


@pytest.fixture(scope="module")
def run(tmp_path_factory, backbone, toy) -> Whole:
    return whole(tmp_path_factory.mktemp("whole"), backbone("bert"), toy)


def found(content: bytes, names: list[str], run: Whole) -> list[str]:
    return [name for name in names if run.canaries[name].encode() in content]


def test_the_run_is_pushed(run):
    assert (run.status, run.err) == (0, "")
    assert "published   " in run.out and list(run.hub.repos) == ["me/whole"]


def test_the_canaries_are_there_to_be_found(run):
    assert len(CANARIES) == 9 and all(run.canaries.values())
    recipe = (run.path / OWN).read_bytes()
    assert set(found(recipe, list(CANARIES), run)) == {"user", "home"}


def test_nothing_is_written(run):
    files = [path for path in run.path.rglob("*") if path.is_file()]
    assert len(files) > 10 and {"model.safetensors", "adapter_config.json", "log.jsonl"} <= {p.name for p in files}
    leaks = {str(p.relative_to(run.path)): found(p.read_bytes(), list(CANARIES), run) for p in files}
    assert {name for name, its in leaks.items() if its} <= {OWN}
    assert all(set(its) <= {"user", "home"} for its in leaks.values()), "no secret anywhere"
    named = [str(path) for path in files if found(str(path.relative_to(run.path)).encode(), list(CANARIES), run)]
    assert not named


def test_nothing_is_sent(run):
    assert len(run.hub.received) > 10
    for body in run.hub.received:
        assert not found(body, list(CANARIES), run), body[:300]
    files = run.hub.repos["me/whole"].at("main").files
    assert {"README.md", "model.safetensors", "recipe.yaml", "adapter/adapter_config.json"} <= set(files)
    for name, entry in files.items():
        assert not found(entry.data, list(CANARIES), run), name


def test_no_secret_is_told(run):
    assert len(run.out) > 500
    assert not found((run.out + run.err).encode(), [*SECRETS, "host"], run)


def test_the_working_folder_holds_nothing_new(run):
    assert {path.name for path in Path(run.path).parent.parent.iterdir()} == {".env", "mine.yaml", "runs"}
