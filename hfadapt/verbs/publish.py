"""`hfadapt publish`: a finished run onto the Hub."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hfadapt.folder import Run
    from hfadapt.publishing import Published
    from hfadapt.push import Push

SAYS = "put a finished run's model, card and recipe into a repository of the Hub"
EXAMPLE = "hfadapt publish runs/my --to me/my-model"


def options(parser: argparse.ArgumentParser) -> None:
    """Its arguments besides --json."""
    parser.add_argument("run", help="a run folder")
    parser.add_argument("--to", required=True, metavar="REPO", help="OWNER/NAME, or a NAME of your own")
    parser.add_argument("--public", action="store_true", help="for all to see; private unless told otherwise")
    parser.add_argument("--branch", metavar="B", help="commit to this branch, made where it is missing")
    parser.add_argument("--pull-request", action="store_true", help="open a pull request instead of committing")
    parser.add_argument("--tag", metavar="T", help="a tag for the commit")
    parser.add_argument("--dry-run", action="store_true", help="show files, sizes and card, and send nothing")


def do(arguments: argparse.Namespace) -> None:
    """Carry it out."""
    from hfadapt.publishing import publish
    from hfadapt.push.hub import HubError

    try:
        done = publish(
            arguments.run,
            arguments.to,
            private=not arguments.public,
            branch=arguments.branch,
            pull_request=arguments.pull_request,
            tag=arguments.tag,
            dry_run=arguments.dry_run,
        )
    except HubError as error:
        if not error.again:
            raise
        if arguments.json:
            print(json.dumps({"errors": [{"says": str(error), "again": True}]}, ensure_ascii=False))
        print(f"{error} The run is as it was; try again with the same command.", file=sys.stderr)
        sys.exit(1)
    if arguments.json:
        print(json.dumps(as_dict(done), ensure_ascii=False, indent=2))
    else:
        print(*(_rehearsed(done) if arguments.dry_run else lines(done)), sep="\n")


def as_dict(done: Published) -> dict[str, Any]:
    """What was published as values for JSON."""
    from dataclasses import asdict

    return asdict(done)


def lines(done: Published) -> Iterator[str]:
    """What was published, for a person."""
    seen = "private" if done.private else "public"
    yield f"published   {done.url}  ({seen}{'' if done.changed else '; nothing changed, no commit made'})"
    at = "".join(f", {what} {name}" for what, name in (("branch", done.branch), ("tag", done.tag)) if name)
    yield f"commit      {done.commit}{at}"
    yield f"files       {len(done.files)}, {_bytes(sum(done.files.values()))}"
    if done.removed:
        yield f"taken away  {', '.join(done.removed)}  (of an earlier model)"
    if done.left:
        yield f"stays here  {', '.join(done.left)}"


def _rehearsed(done: Published) -> Iterator[str]:
    yield f"to {done.repo} ({'private' if done.private else 'public'}), nothing sent:"
    width = max(map(len, done.files))
    yield from (f"  {path:<{width}}  {_bytes(size):>8}" for path, size in done.files.items())
    yield f"  {len(done.files)} files, {_bytes(sum(done.files.values()))}"
    if done.left:
        yield f"stays here: {', '.join(done.left)}"
    yield from ("", "README.md", "", done.card)


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} GB"


def push(run: Run, push: Push) -> tuple[dict[str, Any], list[str], str]:
    """Publish as a recipe says: as values, as lines, and, where it failed, what to say; the run is as it was."""
    from hfadapt.errors import HfadaptError
    from hfadapt.publishing import publish

    try:
        done = publish(
            run, push.repo, private=push.private, branch=push.branch, pull_request=push.pull_request, tag=push.tag
        )
    except HfadaptError as error:
        says = " ".join(str(problem) for problem in error.problems)
        return {"error": says}, [], f"not published: {says} The run is whole; publish it with: {again(run, push)}"
    return as_dict(done), list(lines(done)), ""


def again(run: Run, push: Push) -> str:
    """The command that publishes a run as its recipe says."""
    import shlex

    words = ["hfadapt", "publish", str(run.path), "--to", push.repo]
    words += [] if push.private else ["--public"]
    words += [*(["--branch", push.branch] if push.branch else []), *(["--tag", push.tag] if push.tag else [])]
    return shlex.join([*words, *(["--pull-request"] if push.pull_request else [])])
