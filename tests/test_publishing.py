"""Publishing: what goes, what stays, and what is refused before a byte has gone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hub.client import PUBLISHED, finished, point
from hub.server import FINE_TOKEN, READ_TOKEN, TOKEN, Entry, Fault, Hub

import hfadapt
from hfadapt import cli
from hfadapt.errors import HfadaptError
from hfadapt.publishing import _uploads
from hfadapt.push import Push
from hfadapt.push import hub as asking
from hfadapt.push.hub import HubError


@pytest.fixture
def hub(monkeypatch):
    with Hub() as made:
        point(monkeypatch, made)
        yield made


@pytest.fixture
def run(tmp_path) -> Path:
    return finished(tmp_path / "run")


@pytest.fixture
def command(capsys):
    """Runs a command line: its exit status, what it wrote and what it complained of."""

    def go(*argv: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            cli.main([str(word) for word in argv])
        return (end.value.code, *capsys.readouterr())

    return go


# What goes


@pytest.mark.parametrize("way", ["cas", "local", "classic"])
def test_one_commit_holds_what_may_go_and_nothing_else(way, run, tmp_path, monkeypatch):
    (tmp_path / "cas").mkdir()
    with Hub("local" if way == "local" else "cas", tmp_path / "cas" if way == "local" else None) as hub:
        point(monkeypatch, hub, classic=way == "classic")
        done = hfadapt.publish(run, "me/thing")
        repo = hub.repos["me/thing"]
        assert set(repo.at("main").files) == {*PUBLISHED, ".gitattributes"} == {*done.files, ".gitattributes"}
        assert repo.private and done.private and done.changed
        assert len(repo.log()) == 2 and done.commit == repo.at("main").oid
        assert done.url == f"{hub.url}/me/thing"
        for name in ("model.safetensors", "config.json"):
            assert hub.file("me/thing", name) == (run / "model" / name).read_bytes()
        assert hub.count("xet-write-token") == (way != "classic")
        assert hub.count("PUT /lfs/") == (2 + 2 if way == "classic" else 0)
    assert "model/training_args.bin" in done.left and "model/modeling_mine.py" in done.left


def test_the_card_gets_its_address_and_keeps_every_other_byte(hub, run):
    hfadapt.publish(run, "thing")
    card = hub.file("me/thing", "README.md").decode()
    assert card == (run / "README.md").read_text().replace("path/to/model", "me/thing")
    assert 'model="me/thing"' in card


def test_publishing_imports_nothing_heavy():
    heavy = ("torch", "transformers", "datasets", "peft", "numpy")
    code = f"import hfadapt.publishing, hfadapt.verbs.publish, sys; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_recipe_goes_without_comments_local_paths_and_its_own_destination(hub, run):
    hfadapt.publish(run, "me/thing")
    assert hub.file("me/thing", "recipe.yaml").decode() == (
        "hfadapt: 1\ntask: text-classification\nmodel: bert\ndata:\n  path: reviews.csv\n  text: text\n  label: label\n"
    )
    adapter = json.loads(hub.file("me/thing", "adapter/adapter_config.json"))
    assert adapter == {"base_model_name_or_path": "bert", "peft_type": "LORA"}


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("/data/of/somebody/models/bert", "bert"),
        ("~/rows.csv", "rows.csv"),
        ("./models/bert/", "bert"),
        ("C:\\Users\\somebody\\rows.csv", "rows.csv"),
        ("rows/2026/reviews.csv", "reviews.csv"),
        ("rows/*.csv", "*.csv"),
        ("nyu-mll/glue", "nyu-mll/glue"),
        ("timm/resnet50.a1_in1k", "timm/resnet50.a1_in1k"),
        ("builtin/reviews", "builtin/reviews"),
        ("reviews.csv", "reviews.csv"),
        ("a photo of a {} and/or {}", "a photo of a {} and/or {}"),
        (["/a/b.csv", {"x": "/c/d"}], ["b.csv", {"x": "d"}]),
        (3, 3),
    ],
)
def test_local_paths_are_cut_to_their_last_part(value, kept):
    assert _uploads._reduced(value) == kept


def test_every_file_that_a_tokenizer_of_transformers_saves_may_go():
    import transformers

    names = set()
    sources = sorted((Path(transformers.__file__).parent / "models").glob("*/tokenization_*.py"))
    for path in sources:
        for block in re.findall(r"VOCAB_FILES_NAMES = (\{.*?\})", path.read_text(), re.DOTALL):
            names |= set(re.findall(r':\s*"([\w.]+)"', block))
    assert len(sources) > 80 and len(names) > 12
    assert not [name for name in names if not _uploads._matches(name, _uploads._MODEL)]


def test_a_link_does_not_go(hub, run, tmp_path):
    (tmp_path / "secret").write_text("x")
    (run / "model" / "vocab.txt").symlink_to(tmp_path / "secret")
    assert "model/vocab.txt" in hfadapt.publish(run, "me/thing").left


# Safe to repeat


def test_repeating_makes_no_commit_and_sends_nothing(hub, run):
    first = hfadapt.publish(run, "me/thing")
    before = hub.count("preupload|xet|commit")
    again = hfadapt.publish(run, "me/thing")
    assert (again.changed, again.commit) == (False, first.commit)
    assert hub.count("preupload|xet|commit") == before
    assert len(json.loads((run / "published.json").read_text())) == 1


def test_what_an_earlier_model_left_is_taken_away(hub, run, tmp_path):
    repo = hub.create("me/thing")
    old = {name: Entry(b"old", False) for name in ("adapter_config.json", "vocab.txt", "LICENSE", "docs/config.json")}
    old["model-00001-of-00002.safetensors"] = Entry(b"old", True)
    repo.add("old", {**repo.at("main").files, **old}, repo.branches["main"], "main")
    done = hfadapt.publish(run, "me/thing")
    assert set(done.removed) == {"adapter_config.json", "vocab.txt", "model-00001-of-00002.safetensors"}
    assert set(repo.at("main").files) == {*PUBLISHED, ".gitattributes", "LICENSE", "docs/config.json"}
    assert len(repo.log()) == 3
    assert not hfadapt.publish(run, "me/thing").changed


def test_only_what_changed_is_sent(hub, run):
    hfadapt.publish(run, "me/thing")
    (run / "model" / "config.json").write_text('{"model_type": "roberta"}')
    tokens = hub.count("xet-write-token")
    assert hfadapt.publish(run, "me/thing").changed
    assert hub.count("xet-write-token") == tokens
    assert hub.repos["me/thing"].log().__len__() == 3


def test_a_file_that_the_repository_ignores_is_missed(hub, run):
    repo = hub.create("me/thing")
    ignoring = {**repo.at("main").files, ".gitignore": Entry(b"*.safetensors", False)}
    repo.add("ignore", ignoring, repo.branches["main"], "main")
    with pytest.raises(HubError, match=r"lacks model\.safetensors, adapter/adapter_model\.safetensors .*gitignore"):
        hfadapt.publish(run, "me/thing")


# Branch, tag, pull request


def test_a_branch_is_made_and_main_stays(hub, run):
    repo = hub.create("me/thing")
    for _ in range(2):
        done = hfadapt.publish(run, "me/thing", branch="try-1")
    assert (done.branch, done.changed) == ("try-1", False)
    assert (len(repo.log("try-1")), len(repo.log("main"))) == (2, 1)


def test_a_tag_is_set_once(hub, run):
    for _ in range(2):
        done = hfadapt.publish(run, "me/thing", tag="v1")
    assert hub.repos["me/thing"].tags == {"v1": done.commit}
    (run / "model" / "config.json").write_text("{}")
    with pytest.raises(HubError, match="The tag 'v1' of 'me/thing' holds something else"):
        hfadapt.publish(run, "me/thing", tag="v1")
    assert len(hub.repos["me/thing"].log()) == 2


def test_a_pull_request_is_opened_once(hub, run):
    repo = hub.create("other/thing", private=False)
    first = hfadapt.publish(run, "other/thing", private=False, pull_request=True)
    again = hfadapt.publish(run, "other/thing", private=False, pull_request=True)
    assert first.url == again.url == f"{hub.url}/other/thing/discussions/1"
    assert (first.changed, again.changed, first.commit) == (True, False, again.commit)
    assert (list(repo.pulls), len(repo.log("main"))) == ([1], 1)
    assert set(repo.at("refs/pr/1").files) == {*PUBLISHED, ".gitattributes"}


# Refused before a byte has gone


def test_a_public_repository_is_refused_where_a_private_one_was_asked_for(hub, run):
    hub.create("me/thing", private=False)
    with pytest.raises(HubError, match=r"'me/thing' is public.*--public"):
        hfadapt.publish(run, "me/thing")
    assert hub.count("POST") == 0
    assert not hfadapt.publish(run, "me/thing", private=False).private


def test_one_that_turns_public_at_the_last_moment_is_refused(hub, run):
    def turn() -> None:
        hub.repos["me/thing"].private = False

    hub.faults.append(Fault(r"GET .*/revision/main", before=turn))
    with pytest.raises(HubError, match="is public"):
        hfadapt.publish(run, "me/thing")
    assert hub.count("preupload|xet|commit") == 0


def test_a_private_repository_stays_private(hub, run):
    hub.create("me/thing", private=True)
    assert hfadapt.publish(run, "me/thing", private=False).private
    assert hub.repos["me/thing"].private


@pytest.mark.parametrize(
    ("token", "to", "says"),
    [
        (None, "me/thing", r"There is no token for the Hub\. Log in with `hf auth login`, or set HF_TOKEN\."),
        ("hf_" + "unknown" * 5, "me/thing", "whose token it is failed: the Hub answered 401.*Log in anew"),
        (READ_TOKEN, "me/thing", "The token of 'me' only reads. Use a token with write access"),
        (FINE_TOKEN, "me/new", "the fine-grained token may not make repositories of 'me'"),
        (FINE_TOKEN, "me/other", "write access to 'me/other' failed: the Hub answered 403"),
        (FINE_TOKEN, "me/mine", ""),
        (TOKEN, "org/new", ""),
        (TOKEN, "stranger/new", "'me', whose token this is, may not make it below 'stranger'"),
        (TOKEN, "stranger/public", "write access to 'stranger/public' failed: the Hub answered 403"),
    ],
)
def test_write_access(token, to, says, hub, run, monkeypatch):
    point(monkeypatch, hub, token=token)
    for name in ("me/other", "me/mine", "stranger/public"):
        hub.create(name, private=False)
    push = Push(repo=to, private=False)
    if not says:
        asking.check(push)
        hfadapt.publish(run, to, private=False)
        return
    with pytest.raises(HfadaptError, match=says):
        asking.check(push)
    with pytest.raises(HubError, match=says) as error:
        hfadapt.publish(run, to, private=False)
    assert not error.value.again
    assert hub.count("POST") == 0
    assert token is None or token not in str(error.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"to": "a/b/c"}, "'a/b/c' is no name of a repository"),
        ({"to": "https://huggingface.co/me/x"}, "is no name of a repository"),
        ({"branch": "a b"}, "'a b' is no name of a branch"),
        ({"tag": "refs/pr/1"}, "'refs/pr/1' is no name of a tag"),
        ({"pull_request": True, "branch": "b"}, "has no branch of its own"),
        ({"pull_request": True, "tag": "b"}, "has no tag of its own"),
        ({"pull_request": True}, "There is no 'me/thing' to open a pull request in"),
    ],
)
def test_what_does_not_make_sense(options, says, hub, run):
    with pytest.raises(HfadaptError, match=says):
        hfadapt.publish(run, **{"to": "me/thing", **options})
    assert hub.count("POST") == 0


def test_a_run_that_is_not_done_or_has_no_model(hub, run):
    (run / "model" / "config.json").unlink()
    with pytest.raises(HfadaptError, match="There is no model in"):
        hfadapt.publish(run, "me/thing", dry_run=True)
    (run / "scores.json").unlink()
    with pytest.raises(HfadaptError, match="is not finished"):
        hfadapt.publish(run, "me/thing")
    assert not hub.requests


def test_a_run_that_loads_otherwise_than_it_trained(hub, run, monkeypatch):
    from hfadapt.contract import Checked
    from hfadapt.errors import Problem

    found = [Problem("The labels are in another order.")]
    monkeypatch.setattr("hfadapt.contract.check", lambda run: Checked(run, 8, tuple(found), {}))
    (run / "log.jsonl").write_text('{"event": "end"}\n{"event": "checked", "sound": false}\n')
    with pytest.raises(HfadaptError, match="The labels are in another order"):
        hfadapt.publish(run, "me/thing")
    assert not hub.requests
    found.clear()
    assert hfadapt.publish(run, "me/thing").changed, "it was mended since"


def test_offline(hub, run, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set, so nothing goes to the Hub"):
        hfadapt.publish(run, "me/thing")


def test_out_of_reach(run, monkeypatch):
    with Hub() as gone:
        pass
    slept = point(monkeypatch, gone)
    with pytest.raises(HubError, match="whose token it is failed: the connection broke") as error:
        hfadapt.publish(run, "me/thing")
    assert error.value.again and slept == list(asking.PAUSES)


@pytest.mark.parametrize(
    ("place", "secret", "what"),
    [
        ("README.md", "hf_" + "a1B2" * 8, "an access token of the Hub"),
        ("model/config.json", '{"x": "AKIA' + "ABCD1234" * 2 + '"}', "a cloud key"),
        ("model/tokenizer_config.json", "-----BEGIN RSA PRIVATE KEY-----", "a private key"),
        (".eval_results/glue.yaml", "a: not-so-secret-1", "the value of an environment variable"),
        ("model/config.json", str(Path.home() / "x"), "a path of this machine"),
    ],
)
def test_a_secret_in_a_file_stops_everything(place, secret, what, hub, run, monkeypatch):
    monkeypatch.setenv("MY_SECRET", "not-so-secret-1")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "path/to/model")
    (run / place).write_text(secret)
    name = place.removeprefix("model/")
    with pytest.raises(HfadaptError, match=f"The file '{re.escape(name)}' holds {what}") as error:
        hfadapt.publish(run, "me/thing")
    assert secret not in str(error.value) and hub.count("POST") == 0


def test_a_secret_in_the_header_of_weights(hub, run):
    import numpy as np
    from safetensors.numpy import save_file

    token = "hf_" + "a1B2" * 8
    save_file({"a": np.zeros(3)}, run / "model" / "model.safetensors", {"by": token})
    with pytest.raises(HfadaptError, match=r"'model\.safetensors' holds an access token"):
        hfadapt.publish(run, "me/thing")


def test_what_others_say_is_scrubbed():
    said = f"no {TOKEN} at https://u:p@s3.test/x?X-Amz-Signature=abc&y=1 (Bearer {TOKEN})\nmore\x1b[2J"
    assert asking.scrubbed(said) == "no hf_… at https://s3.test/x (Bearer … more\\x1b[2J"


# The verb


def test_a_dry_run_asks_nobody(hub, run, command):
    status, out, err = command("publish", run, "--to", "me/thing", "--dry-run")
    assert (status, err, hub.requests) == (0, "", [])
    assert all(name in out for name in PUBLISHED) and 'model="me/thing"' in out
    assert re.search(r"model\.safetensors +24\.\d kB", out)
    assert "stays here: model/modeling_mine.py" in out
    assert not (run / "published.json").exists()


def test_the_verb(hub, run, command):
    status, out, err = command("publish", run, "--to", "thing", "--public", "--tag", "v1", "--branch", "b")
    assert (status, err) == (0, "")
    assert f"published   {hub.url}/me/thing  (public)" in out and "branch b, tag v1" in out
    status, out, err = command("publish", run, "--to", "thing", "--public", "--branch", "b", "--json")
    found = json.loads(out)
    assert (status, err, found["changed"], found["repo"]) == (0, "", False, "me/thing")
    assert TOKEN not in out


def test_the_verb_fails_with_1_where_it_may_be_tried_again_and_with_2_where_not(hub, run, command):
    hub.faults.append(Fault("commit", status=503))
    status, out, err = command("publish", run, "--to", "me/thing")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("The commit failed: the Hub answered 503, planted. The run is as it was; try again")
    status, out, _ = command("publish", run, "--to", "me/thing", "--json")
    assert (status, json.loads(out)["errors"][0]["again"]) == (1, True)
    hub.faults[:] = [Fault("whoami", status=401)]
    status, out, err = command("publish", run, "--to", "me/thing")
    assert (status, out, err.count("\n")) == (2, "", 1)
