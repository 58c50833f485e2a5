"""The verbs of the command line, one file each: SAYS, EXAMPLE, `options(parser)` and `do(arguments)`.

Besides cli.py the only modules that print or exit. They import what is heavy inside their functions.
"""

from __future__ import annotations

import argparse

CHANGES = "a change to the recipe, such as train.learning_rate=3e-5 or adapt=linear-probe"
"""What `key=value` is, for the help."""
PROCESSES = "how many train together; default one an accelerator"
"""What `--processes` is, for the help."""


def at_least_one(text: str) -> int:
    """A number of processes, as an argument's type."""
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"invalid int value: {text!r}") from None
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} processes are too few")
    return number
