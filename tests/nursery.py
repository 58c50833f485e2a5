"""Python processes that start at once: forked from one that has imported what takes seconds, and nothing of hfadapt.

To whoever looks from inside, one of them is as fresh as any: no module of hfadapt, an environment and a folder of its
own. As a script this is the process they are forked from: a line of JSON on standard input is one to start or to wait
for, a line on standard output its number, or its status.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn


class Child:
    """A process that was started, as `subprocess.Popen` has it."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self.pid, self.returncode, self._nursery = pid, None, nursery

    def poll(self) -> int | None:
        """Its status, once it has one."""
        if self.returncode is None:
            self.returncode = self._nursery.ask({"wait": self.pid, "at_once": True})
        return self.returncode

    def wait(self) -> int:
        """Its status at its end."""
        if self.returncode is None:
            self.returncode = self._nursery.ask({"wait": self.pid})
        return self.returncode

    def kill(self) -> None:
        """End it at once."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


class Later:
    """A process that is started once it is given its input, as much of `subprocess.Popen` as a contract check uses."""

    def __init__(self, run: Callable[[str], subprocess.CompletedProcess[str]]) -> None:
        self.returncode, self._run = None, run

    def communicate(self, text: str) -> tuple[str, str]:
        """What it writes, and what it complains of."""
        done = self._run(text)
        self.returncode = done.returncode
        return done.stdout, done.stderr

    def kill(self) -> None:
        """It has not begun, or is over."""

    def __enter__(self) -> Later:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Nursery:
    """Runs what `subprocess.run` would, of this Python; started when first asked."""

    def __init__(self) -> None:
        self._parent: subprocess.Popen[str] | None = None

    def run(
        self,
        words: Sequence[str],
        *,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        text: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """What a script, a module after `-m` or code after `-c` does; text: its input; its output is captured."""
        with tempfile.TemporaryDirectory() as folder:
            files = [f"{folder}/{name}" for name in ("stdin", "stdout", "stderr")]
            Path(files[0]).write_text(text, encoding="utf-8")
            status = self.start(words, cwd=cwd, env=env, files=files).wait()
            out, err = (Path(its).read_text(encoding="utf-8", errors="replace") for its in files[1:])
        return subprocess.CompletedProcess(words, status, out, err)

    def start(
        self,
        words: Sequence[str],
        *,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        files: Sequence[str] = (os.devnull, os.devnull, os.devnull),
    ) -> Child:
        """The same without waiting; files: what it reads, what it writes, and what it complains of."""
        assert words[0] == sys.executable
        asked = {"words": [w for w in words[1:] if w != "-P"], "cwd": str(cwd or Path.cwd()), "files": list(files)}
        return Child(self, self.ask(asked | {"env": dict(os.environ if env is None else env)}))

    def later(self, words: Sequence[str], *, cwd: Path, env: Mapping[str, str], **_: Any) -> Later:
        """The same once its input is there."""
        return Later(lambda text: self.run(words, cwd=cwd, env=env, text=text))

    def ask(self, question: dict[str, Any]) -> Any:
        """The answer of the process that all are forked from."""
        if self._parent is None:
            pipe = subprocess.PIPE
            self._parent = subprocess.Popen([sys.executable, __file__], stdin=pipe, stdout=pipe, text=True)
        print(json.dumps(question), file=self._parent.stdin, flush=True)
        return json.loads(self._parent.stdout.readline())

    def close(self) -> None:
        """End the process that the others are forked from."""
        if self._parent:
            self._parent.stdin.close()
            assert self._parent.wait(timeout=60) == 0


def breed() -> None:
    """Fork a process for each line that names one, and tell of others how they ended."""
    import peft  # noqa: F401
    import torch  # noqa: F401
    from PIL import Image  # noqa: F401
    from transformers import AutoImageProcessor, AutoTokenizer, PreTrainedModel, pipeline  # noqa: F401

    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            pid, status = os.waitpid(asked["wait"], os.WNOHANG if asked.get("at_once") else 0)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork() or _be(asked)
        print(json.dumps(answer), flush=True)


def _be(asked: dict[str, Any]) -> NoReturn:
    """Become the process that was asked for."""
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])
    for number, path in enumerate(asked["files"]):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT if number else os.O_RDONLY), number)
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
