"""A recipe that pushes: checked while planning, sent when all is done, and loaded back by plain transformers."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hub.client import environment, point, state
from hub.server import READ_TOKEN, TOKEN, Fault, Hub
from hub.whole import Whole, whole

from hfadapt import cli
from hfadapt.errors import HfadaptError, RecipeError
from hfadapt.folder import Run
from hfadapt.planning import plan
from hfadapt.reading import read
from hfadapt.showing import plan_dict, plan_lines

LOAD = """
import json, sys
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
texts, found = json.loads(sys.argv[1]), []
for where in sys.argv[2:]:
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(where), AutoTokenizer.from_pretrained(where)
    with torch.no_grad():
        logits = model.eval()(**tokenizer(texts, padding=True, return_tensors="pt")).logits.tolist()
    found.append({"logits": logits, "answers": pipeline("text-classification", where)(texts, top_k=None)})
assert "hfadapt" not in sys.modules
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory, backbone, toy) -> Whole:
    return whole(tmp_path_factory.mktemp("whole"), backbone("bert"), toy)


@pytest.fixture
def hub(monkeypatch):
    with Hub() as made:
        point(monkeypatch, made)
        yield made


@pytest.fixture
def recipe(tmp_path, backbone, toy) -> Path:
    path = tmp_path / "toy.yaml"
    values = {"task": "text-classification", "model": str(backbone("bert")), "train": {"max_steps": 2}}
    values |= {"data": {"path": str(toy), "text": "text", "label": "label"}, "push": {"repo": "me/toy"}}
    path.write_text(yaml.safe_dump(values))
    return path


def test_a_fresh_process_loads_what_was_trained(run, tmp_path):
    texts = json.dumps(["a wonderful chair", "dreadful bread by the river"])
    env = environment(run.hub, tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", LOAD, texts, str(run.path / "model"), "me/whole"],
        env=env,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    here, there = json.loads(done.stdout)
    assert here == there
    assert {answer["label"] for answer in there["answers"][0]} == {"good", "bad"}
    assert run.hub.count("GET /me/whole/resolve/.*safetensors") == 1


def test_the_run_tells_where_it_went(run):
    assert f"published   {run.hub.url}/me/whole  (private)" in run.out
    assert run.out.index("model card") < run.out.index("published")
    assert run.hub.repos["me/whole"].tags == {"v1": run.hub.repos["me/whole"].at("main").oid}


# Planning


def test_the_plan_says_where_it_will_go(hub, recipe):
    made = plan(read(recipe, ["push.tag=v1", "push.private=false"]))
    assert "push    me/toy (public), tag v1" in list(plan_lines(made))
    assert plan_dict(made)["push"]["repo"] == "me/toy"
    assert hub.count("POST") == 0


@pytest.mark.parametrize(
    ("token", "says"),
    [(None, "There is no token for the Hub"), (READ_TOKEN, "The token of 'me' only reads"), ("hf_x", "answered 401")],
)
def test_a_plan_without_write_access_is_refused(token, says, hub, recipe, monkeypatch):
    point(monkeypatch, hub, token=token)
    with pytest.raises(HfadaptError, match=says) as error:
        plan(read(recipe))
    assert str(error.value).startswith(f"{recipe}:") and ": push: " in str(error.value)


def test_a_plan_that_is_offline_or_would_go_public_or_has_its_tag(hub, recipe, monkeypatch):
    repo = hub.create("me/toy", private=False)
    with pytest.raises(HfadaptError, match=r"'me/toy' is public.*push\.private: false"):
        plan(read(recipe))
    repo.private, repo.tags = True, {"v1": repo.branches["main"]}
    with pytest.raises(HfadaptError, match="'me/toy' has a tag 'v1' already"):
        plan(read(recipe, ["push.tag=v1"]))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HfadaptError, match="HF_HUB_OFFLINE is set"):
        plan(read(recipe))


def test_only_the_first_process_speaks_with_the_hub(hub, recipe, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    plan(read(recipe))
    assert not hub.requests


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("push.repo=a b", "command line: push.repo: 'a b' is no name of a repository"),
        ("push.tags=v1", "push.tags: Push has no 'tags'. Did you mean 'tag'?"),
        ("push={private: true}", "push.repo: 'repo' is missing."),
        ("push={repo: a/b, pull_request: true, tag: v1}", "push.pull_request: A pull request has no tag"),
        ("push=me/toy", "'me/toy' does not fit: it should be a mapping"),
    ],
)
def test_a_push_that_is_wrong(change, says, recipe):
    with pytest.raises(RecipeError) as error:
        read(recipe, [change])
    assert says in str(error.value)


def test_no_push(recipe):
    assert read(recipe, ["push="]).push is None
    assert "push" not in plan_dict(plan(read(recipe, ["push="])))


# The end of a run


def ended(monkeypatch, run: Whole, recipe: Path, *argv: str) -> int:
    """The exit status of a run whose training is done already."""
    monkeypatch.setattr("hfadapt.adapting.adapt", lambda *_, **__: Run(run.path))
    with pytest.raises(SystemExit) as end:
        cli.main(["run", str(recipe), *argv])
    return int(end.value.code)


@pytest.fixture
def checked(monkeypatch):
    """The check passes, as it did."""
    from hfadapt.contract import Checked

    monkeypatch.setattr("hfadapt.contract.check", lambda run, _: Checked(run, 8, (), {}))


def test_a_push_that_fails_says_how_to_try_again(hub, run, recipe, monkeypatch, checked, capsys):
    before = state(run.path / "model")
    hub.faults.append(Fault("/commit/", status=503))
    assert ended(monkeypatch, run, recipe, "push.branch=b") == 1
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and "not published: The commit failed: the Hub answered 503" in err
    assert "accuracy" in out and state(run.path / "model") == before
    words = shlex.split(re.search(r"publish it with: (hfadapt .*)\n", err)[1])
    assert words == ["hfadapt", "publish", str(run.path), "--to", "me/toy", "--branch", "b"]
    hub.faults.clear()
    with pytest.raises(SystemExit) as end:
        cli.main(words[1:])
    assert end.value.code == 0 and "model.safetensors" in hub.repos["me/toy"].at("b").files


def test_json(hub, run, recipe, monkeypatch, checked, capsys):
    assert ended(monkeypatch, run, recipe, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["published"]["repo"] == "me/toy" and found["scores"]
    assert TOKEN not in json.dumps(found)
    hub.faults.append(Fault("/revision/main", status=500))
    assert ended(monkeypatch, run, recipe, "--json") == 1
    assert "the Hub answered 500" in json.loads(capsys.readouterr().out)["published"]["error"]
