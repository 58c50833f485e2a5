"""Publishing while requests fail: nothing is lost here, nothing is made twice there, nothing is retried in vain."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from hub.client import PUBLISHED, environment, finished, point, state
from hub.server import Fault, Hub

import hfadapt
from hfadapt.push.hub import HubError

REQUESTS = {
    "whoami": "GET /api/whoami-v2",
    "look": "GET /api/models/me/thing$",
    "create": "POST /api/repos/create",
    "refs": "GET .*/refs$",
    "branch": "POST .*/branch/",
    "state": "GET .*/revision/b$",
    "preupload": "POST .*/preupload/",
    "xet token": "GET .*/xet-write-token/",
    "xorb": "POST /cas/.*/xorbs/",
    "shard": "POST /cas/.*/shards",
    "validate": "POST /api/validate-yaml",
    "commit": "POST .*/commit/",
    "verify": "GET .*/revision/[0-9a-f]{40}$",
    "tag": "POST .*/tag/",
}
"""The requests of a publication in the client's default way."""
XET = {"xet token", "xorb", "shard"}
CLASSIC = {name: pattern for name, pattern in REQUESTS.items() if name not in XET} | {
    "batch": "POST .*/objects/batch",
    "put": "PUT /lfs/",
    "check": "POST /lfs-verify/",
}
"""Those of a client without Xet."""
WHOLE = os.environ.get("HFADAPT_CONFORMANCE") == "all"
"""Else requests that are the same in both ways fail in the classic one only, which is faster."""
PERMANENT = (401, 403, 404, 409, 412, 413)
PASSING = (0, 429, 500, 503)
"""0: the connection is cut."""

CASES = [("default", name) for name in REQUESTS if WHOLE or name in XET | {"commit"}]
CASES += [("classic", name) for name in CLASSIC]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return finished(tmp_path_factory.mktemp("faults") / "run")


def fault(way: str, name: str, status: int, **more: object) -> Fault:
    headers = {"Retry-After": "7"} if status == 429 else {}
    return Fault((CLASSIC if way == "classic" else REQUESTS)[name], status=status, headers=headers, **more)  # type: ignore[arg-type]


def send(run: Path) -> hfadapt.publishing.Published:
    return hfadapt.publish(run, "me/thing", branch="b", tag="v1")


def whole(hub: Hub, run: Path) -> bool:
    """Whether the branch holds all of the run, in one commit, and the tag says so."""
    repo = hub.repos["me/thing"]
    files = repo.at("b").files
    right = all(hub.file("me/thing", n, "b") == (run / "model" / n).read_bytes() for n in ("model.safetensors",))
    return set(files) == {*PUBLISHED, ".gitattributes"} and right and len(repo.log("b")) == 2 and "v1" in repo.tags


@pytest.mark.parametrize(("way", "name"), CASES, ids=lambda value: str(value).replace(" ", "-"))
def test_a_request_that_fails_for_good(way, name, run, monkeypatch):
    before = state(run)
    for status in (*PERMANENT, *PASSING):
        with Hub() as hub:
            point(monkeypatch, hub, classic=way == "classic")
            planted = fault(way, name, status)
            hub.faults.append(planted)
            failed = None
            try:
                send(run)
            except HubError as error:
                failed = error
            # What seems not to be there is made; what exists already may be there.
            forgiven = {("look", 404), ("tag", 409)}
            assert failed or (name, status) in forgiven, (status, "it was not noticed")
            tries = Counter(request for request in hub.requests if re.search(planted.pattern, request))
            assert max(tries.values()) <= 6, "we repeat what the client does not, and never both"
            if status in PERMANENT and failed:
                assert max(tries.values()) == (2 if (name, status) == ("commit", 412) else 1), (status, tries)
                # An answer that contradicts one before it may be a matter of time, as is who is faster.
                assert name in {"create", "branch", "state", "verify"} or status == 412 or not failed.again, status
            if failed and status in PASSING and name not in XET:
                assert failed.again and planted.seen > 1, (status, "it could have passed")
            assert state(run) == before
            hub.faults.clear()
            send(run)
            assert whole(hub, run), status


@pytest.mark.parametrize(("way", "name"), CASES, ids=lambda value: str(value).replace(" ", "-"))
def test_a_request_that_fails_once(way, name, run, monkeypatch):
    for status in PASSING:
        with Hub() as hub:
            slept = point(monkeypatch, hub, classic=way == "classic")
            planted = fault(way, name, status, times=1)
            hub.faults.append(planted)
            done = send(run)
            assert planted.seen == 1 and whole(hub, run) and done.changed, status
            if status == 429 and name not in XET:
                assert max(slept) >= 7, "the Hub said when"


@pytest.mark.parametrize("way", ["default", "classic"])
@pytest.mark.parametrize("name", ["create", "branch", "commit", "tag"])
def test_an_answer_that_is_lost(way, name, run, monkeypatch):
    with Hub() as hub:
        point(monkeypatch, hub, classic=way == "classic")
        planted = Fault(REQUESTS[name], done=True, times=1)
        hub.faults.append(planted)
        send(run)
        assert planted.seen == 1 and whole(hub, run)


def test_the_lost_answer_to_a_pull_request(run, monkeypatch):
    with Hub() as hub:
        point(monkeypatch, hub)
        repo = hub.create("other/thing", private=False)
        hub.faults.append(Fault(REQUESTS["commit"], done=True, times=1))
        done = hfadapt.publish(run, "other/thing", private=False, pull_request=True)
        assert list(repo.pulls) == [1] and done.url.endswith("/discussions/1") and done.changed


def test_every_answer_to_the_commit_is_lost(run, monkeypatch):
    with Hub() as hub:
        point(monkeypatch, hub)
        hub.faults.append(Fault(REQUESTS["commit"], done=True))
        send(run)
        assert whole(hub, run) and hub.count(REQUESTS["commit"]) == 1


def test_somebody_else_is_faster(run, monkeypatch):
    with Hub() as hub:
        point(monkeypatch, hub)
        repo = hub.create("me/thing")

        def other() -> None:
            repo.add("theirs", repo.at("b").files, repo.branches["b"], "b")

        hub.faults.append(Fault(REQUESTS["commit"], before=other, times=1))
        assert send(run).changed
        assert [title for title in repo.log("b") if "hfadapt" not in title] == ["theirs", "initial commit"]
        assert len(repo.log("b")) == 3
        hub.faults.append(Fault(REQUESTS["commit"], before=other))
        with pytest.raises(HubError, match=r"412, A commit has happened since.*Somebody else commits"):
            hfadapt.publish(finished(run.parent / "another", seed=1), "me/thing", branch="b")
        assert hub.count(REQUESTS["commit"]) == 4


def test_a_wait_that_is_too_long_is_left_to_the_user(run, monkeypatch):
    with Hub() as hub:
        slept = point(monkeypatch, hub)
        hub.faults.append(Fault(REQUESTS["commit"], status=429, headers={"Retry-After": "3600"}))
        with pytest.raises(HubError, match="It asks to wait 3,600 seconds") as error:
            send(run)
        assert error.value.again and not slept


def test_an_answer_that_is_not_the_hubs(run, monkeypatch):
    class Page(Hub):
        """Answers a proxy's page."""

    with Page() as hub:
        point(monkeypatch, hub)
        monkeypatch.setattr(hub.server.RequestHandlerClass, "whoami", lambda self, query: (200, b"<html>", {}))
        with pytest.raises(HubError, match="the answer is not the Hub's") as error:
            send(run)
        assert error.value.again


@pytest.mark.parametrize(("way", "request_"), [("default", REQUESTS["xorb"]), ("classic", CLASSIC["put"])])
def test_a_process_killed_while_it_uploads(way, request_, run, tmp_path, monkeypatch):
    before = state(run)
    with Hub() as hub:
        never = threading.Event()
        planted = Fault(request_, hangs=never)
        hub.faults.append(planted)
        env = environment(hub, tmp_path, **({"HF_HUB_DISABLE_XET": "1"} if way == "classic" else {}))
        words = [sys.executable, "-m", "hfadapt", "publish", str(run), "--to", "me/thing", "--branch", "b"]
        process = subprocess.Popen([*words, "--tag", "v1"], env=env, stderr=subprocess.PIPE)
        end = time.monotonic() + 100
        while not planted.seen:
            assert process.poll() is None and time.monotonic() < end, process.stderr.read()
            time.sleep(0.02)
        process.kill()
        process.wait()
        assert state(run) == before and hub.count("/commit/") == 0
        hub.faults.clear()
        never.set()
        done = subprocess.run([*words, "--tag", "v1"], env=env, capture_output=True, text=True, timeout=100)
        assert (done.returncode, done.stderr) == (0, "")
        assert whole(hub, run)
