"""Is this installation sound? What can break it without a word of its own is really tried."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

_NEEDED = ("torch", "transformers", "accelerate", "peft", "datasets", "evaluate", "huggingface-hub", "tokenizers")
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
    for name in _NEEDED:
        yield Finding(name, True, importlib.metadata.version(name))
    for name in _OPTIONAL:
        if importlib.util.find_spec(name):
            yield _optional(name)
    yield _imports("transformers", "from transformers import Trainer, ViTForImageClassification")
    yield _device()


def _optional(name: str) -> Finding:
    """A broken torchvision takes all of transformers down with it, whose error does not name it."""
    found = _imports(name, f"import {name}")
    if found.fine:
        return found
    torch = importlib.metadata.version("torch")
    says = f"{found.says} It was built for another torch than {torch}, and no model of transformers loads beside it."
    return Finding(name, False, f"{says} Install both from one source, or remove it: pip uninstall {name}.")


def _imports(what: str, code: str) -> Finding:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode == 0:
        return Finding(what, True, f"{importlib.metadata.version(what)}, imports")
    last = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit status {done.returncode}"
    return Finding(what, False, f"The import fails: {last.rstrip('.')}.")


def _device() -> Finding:
    code = "import torch; print(torch.accelerator.current_accelerator() or 'cpu', torch.accelerator.device_count())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        return Finding("device", False, "torch can't be imported; install it anew.")
    kind, number = done.stdout.split()
    return Finding("device", True, "CPU only" if kind == "cpu" else f"{number} x {kind}")
