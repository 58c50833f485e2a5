"""`hfadapt doctor`: whether the libraries work together."""

from __future__ import annotations

import argparse
import json
import sys

SAYS = "check that the installed libraries work together"
EXAMPLE = "hfadapt doctor"


def options(parser: argparse.ArgumentParser) -> None:
    """Its arguments besides --json."""
    del parser


def do(arguments: argparse.Namespace) -> None:
    """Carry it out."""
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
