"""What launchers leave undone.

On a CPU `accelerate launch` gives a process one thread, starts one process where several were asked for, or
several that do not know of each other; what can be put right is, and the rest is refused.
"""

from __future__ import annotations

import os

from hfadapt.errors import RunError

JOINED = "On a CPU, let hfadapt launch them: `hfadapt run RECIPE --processes {asked}`."


def set_up() -> None:
    """Threads for a CPU process, and the choice of the CPU where there is nothing better.

    Raises:
        RunError: the launcher was asked for several processes and started one.
    """
    asked = _asked_for(_launcher_arguments())
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if asked > 1 and started == 1:
        raise RunError(f"{asked} processes were asked for, and the launcher started one.", JOINED.format(asked=asked))
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ
    threads = os.environ.get("HFADAPT_THREADS")
    if threads or (launched and os.environ.get("OMP_NUM_THREADS") == "1"):
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        # Before torch is imported: OpenMP reads it once.
        os.environ["OMP_NUM_THREADS"] = threads or str(max(1, _cores() // here))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def check_joined() -> None:
    """Make sure that the processes that were started train together.

    Raises:
        RunError: they would each train alone, into the same folder.
    """
    import torch
    from accelerate import PartialState

    if not torch.accelerator.is_available():
        os.environ["ACCELERATE_USE_CPU"] = "true"
    started = int(os.environ.get("WORLD_SIZE", "1"))
    joined = PartialState(cpu=not torch.accelerator.is_available()).num_processes
    if joined != started:
        raise RunError(f"{started} processes were started, but {joined} would train together.")


def accelerators() -> int:
    """How many accelerators there are; 1 for a CPU."""
    import torch

    return torch.accelerator.device_count() if torch.accelerator.is_available() else 1


def _cores() -> int:
    import psutil

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(psutil.cpu_count(logical=False) or allowed, allowed)


def _launcher_arguments() -> list[str]:
    """The command line of the process that started this one, where it can be read."""
    import psutil

    try:
        return list(psutil.Process(os.getppid()).cmdline())
    except psutil.Error:
        return []


def _asked_for(arguments: list[str]) -> int:
    """The number of processes that an `accelerate launch` command line asks for."""
    if not any("accelerate" in word for word in arguments):
        return 1
    for flag, value in zip(arguments, [*arguments[1:], ""], strict=True):
        if flag in {"--num_processes", "--num-processes"} and value.isdigit():
            return int(value)
        if flag.startswith(("--num_processes=", "--num-processes=")):
            return int(flag.partition("=")[2])
    return 1
