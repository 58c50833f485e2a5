"""Python processes that start at once: forked from one that has imported what takes seconds, and nothing of hfadapt.

To whoever looks from inside, one of them is as fresh as any: no module of hfadapt, an environment and a folder of its
own. What it leaves running ends with it, and it ends with whoever asked for it.

As a script, `nursery.py NUMBER` is the process that they are forked from, listening at that open socket, and
`nursery.py PATH WORDS …` asks the one that listens there to be Python with these words, here and now.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Any, NoReturn

IMPORTED = (
    *("PIL.Image", "datasets", "ipykernel.kernelapp", "matplotlib.pyplot", "pandas", "peft", "sklearn.linear_model"),
    *("torch", "transformers.models.auto", "transformers.pipelines", "transformers.trainer"),
)
PYTHON = "NURSERY_PYTHON"
"""The variable that names what a forked process takes for Python, where what it starts is to be forked as well."""
_SHIM = '#!/bin/sh\nexec "{python}" -IS "{script}" "{listens}"{words} "$@"\n'
_WAIT = 0.02


class Child:
    """A process that was started, as much of `subprocess.Popen` as is used."""

    stdin = stdout = stderr = None

    def __init__(self, line: socket.socket) -> None:
        self.returncode, self._line = None, line
        self.pid = _heard(line)

    def poll(self) -> int | None:
        """Its status, once it has one."""
        if self.returncode is None and select.select([self._line], [], [], 0)[0]:
            return self.wait()
        return self.returncode

    def wait(self) -> int:
        """Its status at its end."""
        if self.returncode is None:
            self.returncode = _heard(self._line)
            self._line.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Unless it is over."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


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
        self._parent: subprocess.Popen[bytes] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="nursery-")
        self.bin = Path(self._folder.name) / "bin"
        """A folder of a `python` and a `hfadapt` that are forked."""

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
        self._begin()
        asked = {"words": words[1:], "cwd": str(cwd or Path.cwd()), "files": list(files)}
        return Child(_ask(self._listens, asked | {"env": dict(os.environ if env is None else env)}))

    def later(self, words: Sequence[str], *, cwd: Path, env: Mapping[str, str], **_: Any) -> Later:
        """The same once its input is there."""
        return Later(lambda text: self.run(words, cwd=cwd, env=env, text=text))

    def close(self) -> None:
        """End the process that the others are forked from."""
        if self._parent:
            self._parent.stdin.close()
            assert self._parent.wait(timeout=60) == 0
        self._folder.cleanup()

    @property
    def _listens(self) -> str:
        return f"{self._folder.name}/socket"

    def _begin(self) -> None:
        """Start the process that the others are forked from, unless it was."""
        if self._parent:
            return
        self.bin.mkdir()
        for name, words in (("python", ""), ("hfadapt", " -m hfadapt")):
            shim = _SHIM.format(python=sys.executable, script=__file__, listens=self._listens, words=words)
            (self.bin / name).write_text(shim)
            (self.bin / name).chmod(0o755)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self._listens)
            listener.listen()
            number = listener.fileno()
            command = [sys.executable, __file__, str(number)]
            self._parent = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[number])


def _ask(listens: str, asked: dict[str, Any], *numbers: int) -> socket.socket:
    """Ask for a process: the line on which its number comes, and its status; numbers: open files that it is given."""
    line = socket.socket(socket.AF_UNIX)
    line.connect(listens)
    told = f"{json.dumps(asked)}\n".encode()
    line.sendall(told[socket.send_fds(line, [told], numbers) :])
    return line


def _heard(line: socket.socket) -> int:
    told = line.recv(4, socket.MSG_WAITALL)
    assert len(told) == 4, "the process that others are forked from is gone"
    return int.from_bytes(told, signed=True)


def _tell(line: socket.socket, number: int) -> None:
    line.sendall(number.to_bytes(4, signed=True))


def stand_in(listens: str, words: Sequence[str]) -> NoReturn:
    """Be Python with these words, as it seems to whoever started this process."""
    line = _ask(listens, {"words": words, "cwd": os.getcwd(), "env": dict(os.environ)}, 0, 1, 2)
    _heard(line)
    status = _heard(line)
    sys.exit(status if status >= 0 else 128 - status)


def breed(number: int) -> None:
    """Fork a process for each who asks, until standard input ends."""
    del sys.path[0]
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # What is collected later need not go through all of these libraries.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # Nobody waits for those that attend.
    listener = socket.socket(fileno=number)
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        line = listener.accept()[0]
        if not os.fork():
            _attend(line, listener)
        line.close()


def _attend(line: socket.socket, listener: socket.socket) -> NoReturn:
    """Fork the process that is asked for and tell how it ends; end it where nobody listens now; leave nothing of it."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    told, numbers, *_ = socket.recv_fds(line, 1 << 16, 3)
    while not told.endswith(b"\n"):
        told += line.recv(1 << 16)
    pid = os.fork()
    if not pid:
        line.close()
        listener.close()
        _be(json.loads(told), numbers)
    for number in numbers:
        os.close(number)
    _tell(line, pid)
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        if select.select([line], [], [], _WAIT)[0]:
            os.kill(pid, signal.SIGKILL)
    with suppress(BrokenPipeError):
        _tell(line, os.waitstatus_to_exitcode(ended[1]))
    os.killpg(0, signal.SIGKILL)
    os._exit(0)


def _be(asked: dict[str, Any], numbers: Sequence[int]) -> NoReturn:
    """Become the process that was asked for."""
    status: Any = 0
    try:
        opened = numbers or [
            os.open(p, os.O_WRONLY | os.O_CREAT if n else os.O_RDONLY) for n, p in enumerate(asked["files"])
        ]
        for number, its in enumerate(opened):
            os.dup2(its, number)
            os.close(its)
        os.chdir(asked["cwd"])
        _settle(asked["env"])
        _execute(asked["words"])
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


def _settle(environment: Mapping[str, str]) -> None:
    """Take an environment, also where a library has read that of the parent as it was imported."""
    import matplotlib
    from huggingface_hub import constants

    os.environ.clear()
    os.environ.update(environment)
    sys.executable = environment.get(PYTHON, sys.executable)
    tempfile.tempdir = None
    importlib.reload(constants)
    if "MPLBACKEND" in environment:
        matplotlib.rcParams["backend"] = environment["MPLBACKEND"]


def _execute(words: Sequence[str]) -> None:
    """Execute what Python would that is given these words."""
    flags = list(takewhile(lambda word: word.startswith("-") and word not in {"-c", "-m"}, words))
    how, *rest = words[len(flags) :]
    if "-P" not in flags:
        sys.path.insert(0, "" if how == "-c" else os.getcwd() if how == "-m" else str(Path(how).resolve().parent))
    if how == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif how == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [how, *rest]
        runpy.run_path(how, run_name="__main__")


if __name__ == "__main__":
    if sys.argv[1].isdigit():
        breed(int(sys.argv[1]))
    else:
        stand_in(sys.argv[1], sys.argv[2:])
