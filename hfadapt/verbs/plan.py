"""`hfadapt plan`: what a run would do."""

from __future__ import annotations

import argparse
import json

from hfadapt.verbs import CHANGES, PROCESSES, at_least_one

SAYS = "show what a run of a recipe will do, without training"
EXAMPLE = "hfadapt plan recipes/sentiment_bert.yaml"


def options(parser: argparse.ArgumentParser) -> None:
    """Its arguments besides --json."""
    parser.add_argument("recipe", help="a recipe file")
    parser.add_argument("changes", nargs="*", default=[], metavar="key=value", help=CHANGES)
    parser.add_argument("--processes", type=at_least_one, metavar="N", help=PROCESSES)


def do(arguments: argparse.Namespace) -> None:
    """Carry it out."""
    from hfadapt.reading import read

    recipe = read(arguments.recipe, arguments.changes)
    from dataclasses import replace

    from hfadapt.estimating import estimate
    from hfadapt.folder import planned_run
    from hfadapt.launching import accelerators
    from hfadapt.noise import quiet
    from hfadapt.planning import plan
    from hfadapt.showing import draw_augmented, plan_dict, plan_lines

    with quiet():
        processes = arguments.processes or accelerators()
        made = plan(recipe, processes=processes)
        made = replace(made, estimate=estimate(made, processes))
        sheet = draw_augmented(made, planned_run(recipe)) if recipe.task.varies else None
    if arguments.json:
        print(json.dumps(plan_dict(made) | ({"augmented": str(sheet)} if sheet else {}), ensure_ascii=False, indent=2))
    else:
        print(*plan_lines(made), sep="\n")
        if sheet:
            print(f"sample  {sheet}  (training pictures as they are, and as they are varied)")
