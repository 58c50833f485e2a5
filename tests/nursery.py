"""Python processes that start at once: forked from one that has imported what takes seconds, and nothing of hfadapt.

To whoever looks from inside, one of them is as fresh as any: no module of hfadapt, an environment and a folder of its
own. As a script this is the process they are forked from: a line of JSON on standard input is one to start, the lines
on standard output are its number and, at its end, its status.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class Nursery:
    """Runs what `subprocess.run` would, of this Python; started when first asked."""

    def __init__(self) -> None:
        self._parent: subprocess.Popen[str] | None = None

    def run(
        self, words: Sequence[str], *, cwd: str | Path | None = None, env: Mapping[str, str] | None = None, **_: Any
    ) -> subprocess.CompletedProcess[str]:
        """What a script, a module after `-m` or code after `-c` does; its output is captured as text."""
        assert words[0] == sys.executable
        if self._parent is None:
            pipe = subprocess.PIPE
            self._parent = subprocess.Popen([sys.executable, __file__], stdin=pipe, stdout=pipe, text=True)
        with tempfile.TemporaryDirectory() as folder:
            outputs = [f"{folder}/{name}" for name in ("stdout", "stderr")]
            asked = {"words": [w for w in words[1:] if w != "-P"], "cwd": str(cwd or Path.cwd()), "outputs": outputs}
            asked["env"] = dict(os.environ if env is None else env)
            print(json.dumps(asked), file=self._parent.stdin, flush=True)
            status = int(self._parent.stdout.readline())
            out, err = (Path(its).read_text(encoding="utf-8", errors="replace") for its in outputs)
        return subprocess.CompletedProcess(words, status, out, err)

    def close(self) -> None:
        """End the process that the others are forked from."""
        if self._parent:
            self._parent.stdin.close()
            assert self._parent.wait(timeout=60) == 0


def breed() -> None:
    """Fork a process for each line, and tell how it ended."""
    import peft  # noqa: F401
    import torch  # noqa: F401
    from PIL import Image  # noqa: F401
    from transformers import AutoImageProcessor, AutoTokenizer, PreTrainedModel, pipeline  # noqa: F401

    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            _be(json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _be(asked: dict[str, Any]) -> None:
    """Become the process that was asked for."""
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])
    for number, path in enumerate(asked["outputs"], 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    how, *rest = asked["words"]
    sys.argv = ["-c", *rest[1:]] if how == "-c" else rest if how == "-m" else asked["words"]
    status: Any = 0
    try:
        if how == "-c":
            exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
        elif how == "-m":
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(how, run_name="__main__")
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
        status = 1
    if isinstance(status, str):
        print(status, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else int(bool(status)))


if __name__ == "__main__":
    breed()
