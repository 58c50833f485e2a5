"""Two processes that train together, started once and given one recipe after the other.

As a script it is one of them: a line of JSON on standard input is a job, a line on standard output its answer.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

from nursery import Nursery


class Pair:
    """Two processes on this machine, joined over gloo."""

    def __init__(self, folder: Path, nursery: Nursery) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        told = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        told |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": 1}
        self.processes, self.jobs, self.answers = [], [], []
        for rank in range(2):
            its = os.environ | {k: str(v) for k, v in {**told, "RANK": rank, "LOCAL_RANK": rank}.items()}
            files = [str(folder / f"{rank}.{name}") for name in ("jobs", "answers", "txt")]
            for path in files[:2]:
                os.mkfifo(path)
            self.processes.append(nursery.start([sys.executable, __file__], env=its, files=files))
            self.jobs.append(open(files[0], "w"))  # noqa: SIM115
            self.answers.append(open(files[1]))  # noqa: SIM115

    def adapt(self, recipe: dict[str, Any], out: Path, kill: tuple[str, int] | None = None) -> Path:
        """Carry out a recipe, which counts the rows of a batch for each process; the run's folder.

        Beside it, `OUT.0.pt` and `OUT.1.pt` hold the weights that each process was left with.
        kill: a stage and a step of the run's at which both end at once, and then go on as a new run would.
        """
        job = json.dumps({"recipe": recipe, "out": str(out), "kill": kill})
        for jobs in self.jobs:
            print(job, file=jobs, flush=True)
        answers = [its.readline().strip() for its in self.answers]
        assert answers == ["done", "done"], "\n".join(json.loads(its) for its in answers if its not in {"done", ""})
        return out

    def close(self) -> None:
        for its in self.jobs:
            its.close()
        for process, its in zip(self.processes, self.answers, strict=True):
            process.wait()
            its.close()


class Killed(Exception):
    pass


def work() -> None:
    """Answer each job with `done`, or with what went wrong."""
    answers, sys.stdout = sys.stdout, sys.stderr
    from hfadapt import launching

    launching.check_joined()
    for line in sys.stdin:
        try:
            carry_out(json.loads(line))
            answer = "done"
        except Exception:
            answer = json.dumps(traceback.format_exc())
        print(answer, file=answers, flush=True)


def carry_out(job: dict[str, Any]) -> None:
    from unittest.mock import patch

    import torch

    import hfadapt
    from hfadapt import adapting
    from hfadapt.recipe import Recipe
    from hfadapt.training.watching import Watch

    judge, out = adapting.judge, Path(job["out"])

    def keep(model: torch.nn.Module, *rest: Any) -> Any:
        torch.save(model.state_dict(), f"{out}.{os.environ['RANK']}.pt")
        return judge(model, *rest)

    made = hfadapt.plan(Recipe(**job["recipe"]), processes=2)
    place = {"out": out}
    if job["kill"]:
        with patch.object(Watch, "on_step_end", killing(*job["kill"])):
            try:
                hfadapt.adapt(made, out)
            except Killed:
                place = {"resume": out}
            else:
                raise AssertionError("nothing was killed")
    with patch.object(adapting, "judge", keep):
        hfadapt.adapt(made, **place)


def killing(stage: str, step: int):
    """An `on_step_end` that raises there, on every process."""
    from hfadapt.training.watching import Watch

    told = Watch.on_step_end

    def on_step_end(self, args, state, control, **rest):
        if (self.stage, self.done + state.global_step) == (stage, step):
            raise Killed
        return told(self, args, state, control, **rest)

    return on_step_end


if __name__ == "__main__":
    work()
