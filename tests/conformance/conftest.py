"""Shared by the conformance tests: plain transformers to ask."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.register_assert_rewrite("conformance.promises")


@pytest.fixture(scope="session")
def plainly(tmp_path_factory: pytest.TempPathFactory):
    """What transformers alone finds in a folder, in a process of its own: `plainly("text-classification", …)`.

    The arguments are those of the functions in `plain_transformers`.
    """
    log = tmp_path_factory.mktemp("plain") / "log.txt"
    words = [sys.executable, str(Path(__file__).with_name("plain_transformers.py"))]
    with log.open("w") as errors:
        pipe = subprocess.PIPE
        process = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=errors, text=True)

    def ask(task: str, **question):
        print(json.dumps({"task": task, **question}), file=process.stdin, flush=True)
        answer = json.loads(process.stdout.readline() or "null") or {"error": log.read_text()}
        assert "error" not in answer, answer["error"]
        return answer

    yield ask
    process.stdin.close()
    assert process.wait(timeout=60) == 0, log.read_text()
