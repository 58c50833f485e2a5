"""`hfadapt run`: adapt a model."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from hfadapt.errors import HfadaptError
from hfadapt.verbs import CHANGES, PROCESSES, at_least_one

SAYS = "adapt a model as a recipe says"
EXAMPLE = "hfadapt run my.yaml train.learning_rate=3e-5 --out runs/try"


def options(parser: argparse.ArgumentParser) -> None:
    """Its arguments besides --json."""
    parser.add_argument("recipe", nargs="?", help="a recipe file")
    parser.add_argument("changes", nargs="*", default=[], metavar="key=value", help=CHANGES)
    parser.add_argument("--out", metavar="DIR", help="the run folder; default runs/NAME, never one that is taken")
    parser.add_argument("--resume", metavar="DIR", help="go on with the interrupted run in this folder")
    parser.add_argument("--processes", type=at_least_one, metavar="N", help=PROCESSES)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)


def do(arguments: argparse.Namespace) -> None:
    """Carry it out."""
    from hfadapt import launching
    from hfadapt.folder import open_run
    from hfadapt.reading import read

    if bool(arguments.recipe) == bool(arguments.resume):
        raise HfadaptError("Give a recipe, or --resume and the folder of an interrupted run; not both.")
    if arguments.resume:
        folder = open_run(arguments.resume)
        if folder.done:
            raise HfadaptError(f"The run in '{arguments.resume}' is finished; there is nothing to go on with.")
        recipe = folder.recipe
    else:
        recipe = read(arguments.recipe, arguments.changes)
    launching.set_up()
    if not arguments.here and (processes := arguments.processes or launching.accelerators()) > 1:
        _launch(arguments, recipe, processes)
        return
    from hfadapt.adapting import adapt
    from hfadapt.console import Console
    from hfadapt.planning import plan
    from hfadapt.showing import plan_lines

    launching.check_joined()
    made = plan(recipe, processes=int(os.environ.get("WORLD_SIZE", "1")))
    first = int(os.environ.get("RANK", "0")) == 0
    speaks = first and not arguments.json
    if speaks:
        print(*plan_lines(made, full=False), sep="\n", flush=True)
    listener = Console(sys.stdout) if speaks else None
    with _Ahead(listener, made) as ahead:
        done = adapt(made, arguments.out, resume=arguments.resume, listener=ahead)
        if not first:
            return  # The others are through: nobody waits for what the first still looks at and says to the Hub.
        checked = _check(done, listener, ahead.fresh)
    if speaks:
        print(*_ending(done, made, checked), sep="\n", flush=True)
    sent, failed = _push(done, recipe, speaks) if checked.sound else ({}, _unsound(done, checked, recipe))
    if not speaks:
        told = {"run": str(done.path), **done.scores, "checked": checked.as_dict(), **sent}
        print(json.dumps(told, ensure_ascii=False))
    if failed:
        print(failed, file=sys.stderr)
        sys.exit(1)


class _Ahead:
    """A listener that starts the fresh process as training ends: it imports while the model is judged."""

    def __init__(self, listener: Any, plan: Any):
        self.listener, self.last = listener, next((stage.name for stage in reversed(plan.stages)), "")
        self.fresh: Any = None

    def __call__(self, event: Any) -> None:
        from hfadapt.contract import Fresh

        if event["event"] == "stage done" and event["stage"] == self.last:
            self.fresh = Fresh()
        if self.listener:
            self.listener(event)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        if self.fresh:
            self.fresh.__exit__()


def _check(run: Any, listener: Any, fresh: Any) -> Any:
    """Load what was trained as others will, in a fresh process, and note what came of it."""
    import torch

    from hfadapt.contract import check
    from hfadapt.training.watching import Journal

    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # The fresh process needs some.
    journal = Journal(run.path / "log.jsonl", listener)
    checked = check(run, fresh)
    journal("checked", **checked.as_dict())
    return checked


def _unsound(run: Any, checked: Any, recipe: Any) -> str:
    """What to say where what loads is not what was trained."""
    kept = f"All files are kept in {run.path}; look again with: hfadapt check {run.path}"
    unsent = "It is not published. " if recipe.push else ""
    return "\n".join([f"Not sound: {checked.line}.", *(f"  {problem}" for problem in checked.problems), unsent + kept])


def _push(run: Any, recipe: Any, speaks: bool) -> tuple[dict[str, Any], str]:
    """Publish the run where its recipe says so: what to tell in JSON, and what to say where it failed."""
    from hfadapt.verbs import publish

    if not recipe.push:
        return {}, ""
    sent, lines, failed = publish.push(run, recipe.push)
    if speaks and lines:
        print(*lines, sep="\n")
    return {"published": sent}, failed


def _launch(arguments: argparse.Namespace, recipe: Any, processes: int) -> None:
    """Check the plan here, then start the processes through `accelerate launch`."""
    import subprocess

    from hfadapt.launching import accelerators
    from hfadapt.planning import plan

    plan(recipe, processes=processes)
    target = ["--resume", arguments.resume] if arguments.resume else [arguments.recipe, *arguments.changes]
    options = [*(["--out", arguments.out] if arguments.out else []), *(["--json"] if arguments.json else [])]
    # `--multi_gpu` is what makes the launcher start several processes on a CPU too; check_joined joins them.
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "-q", "--multi_gpu", "--num_machines", "1"]
    launcher += ["--num_processes", str(processes), "--mixed_precision", "no", "--dynamo_backend", "no"]
    launcher += ["--main_process_port", "0", "-m", "hfadapt.run"]
    environment = {**os.environ} if accelerators() > 1 else {**os.environ, "ACCELERATE_USE_CPU": "true"}
    environment.pop("OMP_NUM_THREADS", None)
    if code := subprocess.run([*launcher, *target, *options], env=environment).returncode:
        sys.exit(1 if code < 0 else code)


def _ending(run: Any, plan: Any, checked: Any) -> Iterator[str]:
    """The scores beside the baselines, and where things are."""
    from hfadapt.scoring.table import lines
    from hfadapt.scoring.tally import Score

    def real(metrics: dict[str, Any]) -> dict[str, Score]:
        return {name: Score(**values) for name, values in metrics.items()}

    found = run.scores
    shown = _shown(plan.data.labels.kind)
    named = {"adapted model": real(found["scores"]["test"])}
    named |= {name: real(splits["test"]) for name, splits in found["baselines"].items()}
    yield ""
    yield from lines(f"test, {len(plan.data.splits['test']):,} rows, with 95% intervals", named, shown)
    yield ""
    yield f'model       {run.model}  (plain transformers: pipeline("{plan.recipe.task.pipeline}", "{run.model}"))'
    yield f"checked     {checked.line}"
    yield f"scores      {run.path / 'scores.json'}"
    if drawn := [
        name
        for name in ("augmented.png", "training.png", "confusion.png", "mistakes.png")
        if (run.path / name).exists()
    ]:
        yield f"pictures    {', '.join(str(run.path / name) for name in drawn)}"
    yield f"model card  {run.path / 'README.md'}"


def _shown(kind: str) -> list[str]:
    """The metrics of the closing table; scores.json has them all."""
    return {
        "label": ["accuracy", "f1_macro", "mcc"],
        "labels": ["f1_micro", "f1_macro", "map"],
        "number": ["pearson", "spearman", "rmse"],
        "pairs": ["recall@1", "recall@5", "zero_shot_accuracy", "base_accuracy", "new_accuracy", "harmonic_mean"],
    }[kind]
