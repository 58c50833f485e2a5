"""Is this installation sound? What can break it without a word of its own is really tried."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from packaging.requirements import Requirement

_OPTIONAL = ("torchvision", "timm")
"""Packages that transformers takes up wherever they are installed, sound or not."""


@dataclass(frozen=True)
class Finding:
    """What was looked at, and what came of it."""

    what: str
    fine: bool
    says: str
    """A version, or what is wrong and what to do about it."""


def examine() -> Iterator[Finding]:
    """Look at Python, the libraries and the accelerators, each import in a process of its own."""
    yield Finding("python", True, sys.version.split()[0])
    needed = [Requirement(line) for line in importlib.metadata.requires("hfadapt") or ()]
    for requirement in needed:
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield _installed(requirement)
    looks: list[Callable[[], Finding]] = [
        partial(_optional, name) for name in _OPTIONAL if importlib.util.find_spec(name)
    ]
    looks += [partial(_imports, "models", "from transformers import Trainer, ViTForImageClassification"), _device]
    with ThreadPoolExecutor() as pool:
        yield from pool.map(lambda look: look(), looks)


def _installed(needed: Requirement) -> Finding:
    wanted = f"{needed.name}{needed.specifier}"
    try:
        found = importlib.metadata.version(needed.name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(needed.name, False, f"It is not installed. Install it: pip install '{wanted}'.")
    if needed.specifier.contains(found, prereleases=True):
        return Finding(needed.name, True, found)
    return Finding(needed.name, False, f"{found} is not what hfadapt needs. Install another: pip install '{wanted}'.")


def _optional(name: str) -> Finding:
    """A broken torchvision takes all of transformers down with it, whose error does not name it."""
    found = _imports(name, f"import {name}")
    if found.fine:
        return found
    says = f"{found.says} No model of transformers loads beside it. It has to be built for the torch that is here"
    remedy = f"install both from one source, or remove it: pip uninstall {name}."
    return Finding(name, False, f"{says}, {_version('torch')}: {remedy}")


def _imports(what: str, code: str) -> Finding:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode == 0:
        return Finding(what, True, " ".join(part for part in (_version(what), "imports") if part))
    last = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit status {done.returncode}"
    return Finding(what, False, f"The import fails: {last.rstrip('.')}.")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _device() -> Finding:
    code = "import torch; print(torch.accelerator.current_accelerator(True) or 'cpu', torch.accelerator.device_count())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        return Finding("device", False, "torch can't be imported; install it anew.")
    kind, number = done.stdout.split()[-2:]
    return Finding("device", True, "CPU only" if kind == "cpu" else f"{number} x {kind}")
