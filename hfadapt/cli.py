"""The command line: argv → one verb, a file of `verbs/`."""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import os
import pkgutil
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import hfadapt.verbs
from hfadapt import __version__
from hfadapt.errors import HfadaptError, Problem, did_you_mean, one_line

_MOST_PROBLEMS = 30
"""How many problems are told at once."""


def verbs() -> list[str]:
    """The names of all verbs, in the order of the alphabet."""
    return sorted(module.name for module in pkgutil.iter_modules(hfadapt.verbs.__path__))


def verb(name: str) -> Any:
    """The module of a verb."""
    return importlib.import_module(f"hfadapt.verbs.{name}")


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one verb and exit: 0 done, 1 failed, 2 the user can mend it, 130 interrupted."""
    words = sys.argv[1:] if argv is None else argv
    # As far as is known before the words are understood.
    arguments = argparse.Namespace(verb="", json="--json" in words)
    try:
        arguments = _understood(words)
        verb(arguments.verb).do(arguments)
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
    known = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)
    for name in verbs():
        module = verb(name)
        says, example = module.SAYS, module.EXAMPLE
        made = known.add_parser(
            name, help=says, description=f"{says[0].upper()}{says[1:]}.", epilog=f"example: {example}"
        )
        made.add_argument("--json", action="store_true", help="write JSON to standard output")
        module.options(made)
    return parser


class _Parser(argparse.ArgumentParser):
    """One sentence on a mistake, with what was probably meant."""

    def error(self, message: str) -> NoReturn:
        if "invalid choice" in message:
            word = str(ast.literal_eval(message.split("invalid choice: ")[1].rpartition(" (choose")[0]))
            message = f"There is no verb '{word}'. {did_you_mean(word, verbs())}"
        says = message if message.endswith((".", "?")) else f"{message}."
        raise HfadaptError(Problem(one_line(says), where=self.prog, hint=f"See `{self.prog} --help`."))
