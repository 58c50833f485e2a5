"""hfadapt's side."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import stock
from sides import Meter, Order, times

TRIALS = ("cache", "unpad", "pictures", "first token")
"""Events that end what a stage tries out before its first step."""


class _Enough(Exception):
    """The training is over, and nobody asked for the judging."""


def trained(order: Order) -> dict[str, Any]:
    """Plan and train with hfadapt in this process; what comes after the training is left out."""
    import hfadapt
    from hfadapt.recipe import Recipe

    meter, told = Meter(), {"cache": [], "trainable": 0}
    began: dict[str, float] = {}
    tried: dict[str, float] = {}

    def listen(event: Mapping[str, Any]) -> None:
        kind = event["event"]
        if kind in TRIALS:
            tried[event["stage"]] = time.perf_counter() - began[event["stage"]]
        if kind == "baselines":
            meter.load()
        elif kind == "stage":
            meter.begin()
            began[event["stage"]] = time.perf_counter()
            told["trainable"] = event["trainable"]
        elif kind == "step":
            meter.step()
        elif kind == "cache":
            told["cache"].append(event["serves"])
        elif kind == "trained":
            told["loss"] = event["loss"]
        elif kind == "stage done":
            meter.end()
            meter.set_up = sum(tried.values())
            if event["stage"] == plan.stages[-1].name:
                raise _Enough

    plan = hfadapt.plan(Recipe(**stock.recipe(order.setup, order.model, order.rows, order.seed)))
    try:
        hfadapt.adapt(plan, order.out / "run", listener=listen)
    except _Enough:
        pass
    return meter.values(order) | told


def logged(run: Path, order: Order) -> dict[str, Any]:
    """What the log of a run that was started by the command line tells of its training.

    The rate is read where the loss was logged at the end of every epoch.
    """
    lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    stages = [event for event in events if event["event"] == "stage"]
    ended = [event["seconds"] for event in events if event["event"] == "stage done"]
    began = {event["stage"]: event["seconds"] for event in stages}
    tried = {event["stage"]: event["seconds"] - began[event["stage"]] for event in events if event["event"] in TRIALS}
    found = times(ended[-1] - stages[0]["seconds"], sum(tried.values())) | {"rows": order.count}
    found["trainable"] = stages[-1]["trainable"]
    found["cache"] = [event["serves"] for event in events if event["event"] == "cache"]
    ends = [event["seconds"] for event in events if event["event"] == "trained" and event["step"] % order.steps == 0]
    if len(ends) > 1 and not order.setup.whole:
        found["rate"] = round((len(ends) - 1) * order.count / (ends[-1] - ends[0]), 3)
    return found
