"""The command line: argv → one verb. The only module that prints or exits."""

from __future__ import annotations

import argparse
import ast
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hfadapt import __version__
from hfadapt.errors import HfadaptError, Problem, did_you_mean, one_line

_VERBS: dict[str, tuple[str, str]] = {
    "plan": ("show what a run of a recipe will do, without training", "hfadapt plan recipes/sentiment_bert.yaml"),
    "run": ("adapt a model as a recipe says", "hfadapt run my.yaml train.learning_rate=3e-5 --out runs/try"),
    "score": ("score a finished run, on its own rows or others", "hfadapt score runs/my data.test=other.csv"),
    "predict": (
        "answer the rows of a file, or the pictures of a folder",
        "hfadapt predict runs/my reviews.csv > answers.jsonl",
    ),
    "list": ("name the recipes, tasks, methods, families, models and data that come with hfadapt", "hfadapt list"),
    "cp": ("copy out a recipe that comes with hfadapt", "hfadapt cp sentiment_bert my.yaml"),
    "doctor": ("check that the installed libraries work together", "hfadapt doctor"),
    "schema": ("print the JSON Schema of a recipe", "hfadapt schema > recipe.schema.json"),
}


_MOST_PROBLEMS = 30
"""How many problems are told at once."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one verb and exit: 0 done, 1 failed, 2 the user can mend it, 130 interrupted."""
    words = sys.argv[1:] if argv is None else argv
    # As far as is known before the words are understood.
    arguments = argparse.Namespace(verb="", json="--json" in words)
    try:
        arguments = _understood(words)
        verb: Callable[[argparse.Namespace], None] = globals()["_" + arguments.verb]
        verb(arguments)
    except HfadaptError as error:
        if os.environ.get("HFADAPT_DEBUG"):
            raise
        _complain(error.problems, arguments.json)
        sys.exit(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        how = "; a run goes on with: hfadapt run --resume DIR" if arguments.verb == "run" else ""
        print(f"\ninterrupted{how}", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)


def _complain(problems: Sequence[Problem], as_json: bool) -> None:
    if int(os.environ.get("RANK", "0")) > 0:
        return  # the first process has said it
    if as_json:
        listed = [{"where": p.where, "field": p.field, "says": p.says, "hint": p.hint} for p in problems]
        print(json.dumps({"errors": listed}, ensure_ascii=False))
    for problem in problems[:_MOST_PROBLEMS]:
        print(problem, file=sys.stderr)
    if len(problems) > _MOST_PROBLEMS:
        print(f"and {len(problems) - _MOST_PROBLEMS:,} more", file=sys.stderr)


def _understood(words: Sequence[str]) -> argparse.Namespace:
    parser = _parser()
    arguments, rest = parser.parse_known_args(words)
    if any("=" not in word or word.startswith("-") for word in rest) or (rest and not hasattr(arguments, "changes")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:  # argparse takes no more changes once an option has come
        arguments.changes += rest
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="hfadapt", description="Adapt pretrained models by recipe.")
    parser.add_argument("--version", action="version", version=f"hfadapt {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)
    made = {}
    for name, (text, example) in _VERBS.items():
        made[name] = verbs.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=f"example: {example}"
        )
        made[name].add_argument("--json", action="store_true", help="write JSON to standard output")
    changes = "a change to the recipe, such as train.learning_rate=3e-5 or adapt=linear-probe"
    for name in ("plan", "run"):
        made[name].add_argument("recipe", nargs="?" if name == "run" else None, help="a recipe file")
        made[name].add_argument("changes", nargs="*", default=[], metavar="key=value", help=changes)
    run = made["run"]
    run.add_argument("--out", metavar="DIR", help="the run folder; default runs/NAME, never one that is taken")
    run.add_argument("--resume", metavar="DIR", help="go on with the interrupted run in this folder")
    run.add_argument(
        "--processes", type=_at_least_one, metavar="N", help="how many train together; default one an accelerator"
    )
    run.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    made["score"].add_argument("run", help="a run folder")
    made["score"].add_argument("changes", nargs="*", default=[], metavar="key=value", help=changes)
    made["predict"].add_argument("run", help="a run folder")
    made["predict"].add_argument(
        "file",
        help="csv, tsv, json, jsonl or parquet with the columns of the recipe; or, for pictures, a folder or a picture",
    )
    made["predict"].add_argument("--out", metavar="FILE", help="a .csv or .jsonl file; default JSON lines to stdout")
    made["cp"].add_argument("name", help="a recipe's name, as `hfadapt list` prints it")
    made["cp"].add_argument("to", nargs="?", help="where to; default NAME.yaml here")
    return parser


def _at_least_one(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"invalid int value: {text!r}") from None
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} processes are too few")
    return number


class _Parser(argparse.ArgumentParser):
    """One sentence on a mistake, with what was probably meant."""

    def error(self, message: str) -> NoReturn:
        if "invalid choice" in message:
            word = str(ast.literal_eval(message.split("invalid choice: ")[1].rpartition(" (choose")[0]))
            message = f"There is no verb '{word}'. {did_you_mean(word, _VERBS)}"
        says = message if message.endswith((".", "?")) else f"{message}."
        raise HfadaptError(Problem(one_line(says), where=self.prog, hint=f"See `{self.prog} --help`."))


def _plan(arguments: argparse.Namespace) -> None:
    from hfadapt.reading import read

    recipe = read(arguments.recipe, arguments.changes)
    from dataclasses import replace

    from hfadapt.estimating import estimate
    from hfadapt.folder import planned_run
    from hfadapt.noise import quiet
    from hfadapt.planning import plan
    from hfadapt.showing import draw_augmented, plan_dict, plan_lines

    with quiet():
        processes = _accelerators()
        made = plan(recipe, processes=processes)
        made = replace(made, estimate=estimate(made, processes))
        sheet = draw_augmented(made, planned_run(recipe)) if recipe.task.varies else None
    if arguments.json:
        print(json.dumps(plan_dict(made) | ({"augmented": str(sheet)} if sheet else {}), ensure_ascii=False, indent=2))
    else:
        print(*plan_lines(made), sep="\n")
        if sheet:
            print(f"sample  {sheet}  (training pictures as they are, and as they are varied)")


def _run(arguments: argparse.Namespace) -> None:
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
    if not arguments.here and (processes := arguments.processes or _accelerators()) > 1:
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
    done = adapt(made, arguments.out, resume=arguments.resume, listener=Console(sys.stdout) if speaks else None)
    if speaks:
        print(*_ending(done, made), sep="\n")
    elif first:
        print(json.dumps({"run": str(done.path), **done.scores}, ensure_ascii=False))


def _accelerators() -> int:
    import torch

    return torch.accelerator.device_count() if torch.accelerator.is_available() else 1


def _launch(arguments: argparse.Namespace, recipe: Any, processes: int) -> None:
    """Check the plan here, then start the processes through `accelerate launch`."""
    import subprocess

    from hfadapt.planning import plan

    plan(recipe, processes=processes)
    target = ["--resume", arguments.resume] if arguments.resume else [arguments.recipe, *arguments.changes]
    options = [*(["--out", arguments.out] if arguments.out else []), *(["--json"] if arguments.json else [])]
    # `--multi_gpu` is what makes the launcher start several processes on a CPU too; check_joined joins them.
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "-q", "--multi_gpu", "--num_machines", "1"]
    launcher += ["--num_processes", str(processes), "--mixed_precision", "no", "--dynamo_backend", "no"]
    launcher += ["--main_process_port", "0", "-m", "hfadapt.run"]
    environment = {**os.environ} if _accelerators() > 1 else {**os.environ, "ACCELERATE_USE_CPU": "true"}
    environment.pop("OMP_NUM_THREADS", None)
    if code := subprocess.run([*launcher, *target, *options], env=environment).returncode:
        sys.exit(1 if code < 0 else code)


def _ending(run: Any, plan: Any) -> Iterator[str]:
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
    yield f"scores      {run.path / 'scores.json'}"
    if drawn := [name for name in ("augmented.png", "confusion.png", "mistakes.png") if (run.path / name).exists()]:
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


def _score(arguments: argparse.Namespace) -> None:
    from hfadapt import launching

    launching.set_up()
    from hfadapt.folder import plain
    from hfadapt.scoring.table import lines
    from hfadapt.using import score

    found = score(arguments.run, arguments.changes)
    if arguments.json:
        print(json.dumps({"scores": plain(found)}, ensure_ascii=False))
        return
    for split, metrics in found.items():
        main = [m for m in metrics if "[" not in m]
        print(*lines(split, {"model": metrics}, main), sep="\n")


def _predict(arguments: argparse.Namespace) -> None:
    import csv

    from hfadapt import launching

    launching.set_up()
    from hfadapt.using import predict

    out = Path(arguments.out) if arguments.out else None
    if out and out.suffix not in {".csv", ".jsonl"}:
        raise HfadaptError(f"--out must end in .csv or .jsonl, not in '{out.suffix}'.")
    answers = predict(arguments.run, arguments.file)
    first = next(answers, None)
    stream = out.open("w", encoding="utf-8", newline="") if out else sys.stdout
    writer = csv.DictWriter(stream, list(_flat(first))) if first and out and out.suffix == ".csv" else None
    if writer:
        writer.writeheader()
    number = 0
    for answer in [] if first is None else _chain(first, answers):
        number += 1
        if writer:
            writer.writerow(_flat(answer))
        else:
            stream.write(json.dumps(answer, ensure_ascii=False) + "\n")
    if out:
        stream.close()
        print(
            json.dumps({"rows": number, "file": str(out)}) if arguments.json else f"{number:,} rows answered in {out}"
        )


def _chain(first: dict[str, Any], rest: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    yield first
    yield from rest


def _flat(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer as one row of a table: labels joined by `|`, a column for each probability."""
    row: dict[str, Any] = {}
    for key, value in answer.items():
        if isinstance(value, dict):
            row |= value
        else:
            row[key] = "|".join(value) if isinstance(value, list) else value
    return row


def _list(arguments: argparse.Namespace) -> None:
    from hfadapt.gallery import listing

    found = listing()
    if arguments.json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return
    for kind, things in found.items():
        print(kind)
        width = max(map(len, things))
        for name, says in things.items():
            print(f"  {name:<{width}}  {says}".rstrip())


def _cp(arguments: argparse.Namespace) -> None:
    from hfadapt.gallery import copy

    made = copy(arguments.name, arguments.to)
    print(json.dumps({"file": str(made)}) if arguments.json else f"{made}")


def _doctor(arguments: argparse.Namespace) -> None:
    from dataclasses import asdict

    from hfadapt.doctor import examine

    found = []
    for finding in examine():
        found.append(finding)
        if not arguments.json:
            print(f"{'ok ' if finding.fine else 'BAD'}  {finding.what:<16} {finding.says}", flush=True)
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in found], ensure_ascii=False, indent=2))
    if not all(finding.fine for finding in found):
        sys.exit(1)


def _schema(arguments: argparse.Namespace) -> None:
    from hfadapt.recipe import schema

    print(json.dumps(schema(), indent=2, ensure_ascii=False))
