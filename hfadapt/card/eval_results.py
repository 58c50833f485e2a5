"""Scores in the format by which the Hub gathers them for the page of a data set.

`.eval_results/*.yaml`, https://huggingface.co/docs/hub/eval-results.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime

from hfadapt.card.metadata import interval
from hfadapt.card.origins import dataset
from hfadapt.planning import Plan
from hfadapt.scoring.tally import Score


def files(plan: Plan, scores: Mapping[str, Score], now: datetime | None = None) -> dict[str, str]:
    """The text of each file under `.eval_results/`, by its name.

    One score, that which picked the checkpoint, for a task has one value there. None where the test rows are
    not a split of a data set on the Hub as it is: what was set aside from train is comparable with nothing.

    scores: of the test split; now: when they were found.
    """
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    name, data, metric = dataset(plan), plan.recipe.data, str(plan.settled["metric_for_best_model"])
    theirs = plan.data.made["test"] == "given" and not _elsewhere(plan)
    if name is None or not theirs or metric not in scores:
        return {}
    score = scores[metric]
    entry = EvalResultEntry(
        dataset_id=name,
        task_id=data.name or "default",
        value=score.value,
        dataset_revision=data.revision if re.fullmatch("[0-9a-f]{40}", data.revision or "") else None,
        date=(now or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        notes=_notes(plan, metric, score),
    )
    slug = re.sub(r"[^A-Za-z0-9]+", "-", f"{name}-{data.name or ''}").strip("-").lower()
    return {f"{slug}.yaml": yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True)}


def _elsewhere(plan: Plan) -> bool:
    """Whether test comes from files of the user's, although train is of the Hub."""
    test = plan.data.splits["test"]["_file"][:]
    shown = str(plan.recipe.data.path)
    return any(not plan.data.files[number].startswith(shown) for number in set(test))


def _notes(plan: Plan, metric: str, score: Score) -> str:
    split = plan.recipe.data.test if isinstance(plan.recipe.data.test, str) else "test"
    sure = f"; 95% interval {interval(score)}" if interval(score) else ""
    return f"{metric}, split {split}, {score.rows:,} rows{sure}"
