"""How training went, from the events that a run wrote down."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hfadapt.planning import Plan
from hfadapt.scoring.drawing import Course
from hfadapt.training.stages import steps_of


def course(plan: Plan, log: Path) -> Course:
    """The losses and scores by step; of a step that was made again after an interruption the last time counts.

    log: the run's `log.jsonl`.
    """
    names, metric = {stage.name for stage in plan.stages}, str(plan.settled["metric_for_best_model"])
    losses: dict[int, float] = {}
    judged: dict[int, dict[str, float]] = {}
    for event in _events(log):
        # What came before the task has steps of its own.
        if event.get("stage") not in names:
            continue
        if event["event"] == "trained":
            losses[event["step"]] = float(event["loss"])
        elif event["event"] == "evaluated":
            judged[event["step"]] = event["scores"]
    ends, done = [], 0
    for stage, steps in zip(plan.stages, steps_of(plan.stages, plan.steps), strict=True):
        done += steps
        ends.append((stage.name, done))
    scores = [(step, its[metric]) for step, its in sorted(judged.items()) if metric in its and metric != "loss"]
    judged_losses = [(step, its["loss"]) for step, its in sorted(judged.items()) if "loss" in its]
    return Course(sorted(losses.items()), judged_losses, scores, metric, ends, _kept(plan, scores, ends))


def used(plan: Plan, log: Path) -> str:
    """How many embeddings of tokens trained, where that was not all of those that the plan let move; else empty."""
    names = {stage.name for stage in plan.stages}
    told = (event for event in _events(log) if event["event"] == "vocabulary" and event["stage"] in names)
    return next((event["says"] for event in told if event["serves"]), "")


def _kept(plan: Plan, scores: list[tuple[int, float]], ends: list[tuple[str, int]]) -> list[tuple[int, float]]:
    """The best score of each stage, where the checkpoint with it is what went on."""
    if not plan.settled.get("load_best_model_at_end"):
        return []
    better = 1 if plan.settled["greater_is_better"] else -1
    found, start = [], 0
    for _, end in ends:
        own = [point for point in scores if start < point[0] <= end]
        if own:
            # Of equal scores the first: a checkpoint is replaced by a better one only.
            found.append(max(own, key=lambda point: better * point[1]))
        start = end
    return found


def _events(log: Path) -> Iterator[dict[str, Any]]:
    try:
        text = log.read_text(encoding="utf-8")
    except OSError:
        return
    for line in text.splitlines():
        try:
            yield json.loads(line)
        except ValueError:  # a line that a crash cut off
            continue
