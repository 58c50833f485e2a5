"""A run's model card: what happened, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from hfadapt.backbones._source import is_published
from hfadapt.planning import Plan
from hfadapt.scoring.kinds import PER_LABEL
from hfadapt.scoring.tally import Score
from hfadapt.showing import moving, rate, size, versions

Scores = Mapping[str, Mapping[str, Score]]


def text(
    plan: Plan,
    scores: Scores,
    baselines: Mapping[str, Scores],
    cost: Mapping[str, Any],
    tried: Sequence[Mapping[str, float]] = (),
) -> str:
    """The card as Markdown with the Hub's metadata in front.

    tried: the weights that the method chose among after training, and their scores on the validation rows.
    """
    import yaml

    task, labels = plan.recipe.task, plan.data.labels
    front: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": task.pipeline, "tags": ["hfadapt"]}
    if is_published(plan.source):
        front["base_model"] = plan.source.name
    listed = ", ".join(f"`{name}`" for name in labels.names[:20]) + (" …" if len(labels) > 20 else "")
    answers = {"number": "a number", "pairs": "how well a picture and a text belong together"}
    named = answers.get(labels.kind, listed)
    splits = ", ".join(f"{len(rows):,} {name}" for name, rows in plan.data.splits.items())
    lines = [
        f"# {plan.recipe.name}",
        "",
        f"A `{plan.config.model_type}` model adapted to {task.name} with the method `{plan.recipe.adapt.name}`. "
        f"It answers with {named}.",
        "",
        "## Scores",
        "",
        *_table(scores, baselines),
        "",
        "Intervals are 95% bootstrap intervals over the rows.",
        "",
        "## Data",
        "",
        f"Rows: {splits}. {_made(plan)}",
        *[f"- {finding.says}" for finding in plan.findings],
        "",
        "## Training",
        "",
        *([f"First, pretraining on {plan.pretraining.told}.", ""] if plan.pretraining else []),
        *_moved(plan),
        "",
        *_choice(tried),
        f"{plan.steps:,} steps in {cost['train_seconds']:,} s; "
        f"peak memory {cost['peak_memory_bytes'] / 2**30:.1f} GiB.",
        f"Versions: {', '.join(f'{name} {number}' for name, number in versions().items())}.",
        "",
        "## Use",
        "",
        "```python",
        "from transformers import pipeline",
        "",
        f'model = pipeline("{task.pipeline}", "path/to/model")',
        "```",
        "",
    ]
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n" + "\n".join(lines)


def _table(scores: Scores, baselines: Mapping[str, Scores]) -> list[str]:
    split = "test" if "test" in scores else next(iter(scores))
    metrics = [m for m in scores[split] if m.partition("[")[0] not in PER_LABEL or "[" not in m]
    everyone = {"this model": scores[split]} | {name: b[split] for name, b in baselines.items() if split in b}
    rows = [
        f"| {metric} | " + " | ".join(_cell(values.get(metric)) for values in everyone.values()) + " |"
        for metric in metrics
    ]
    return [f"| {split} | " + " | ".join(everyone) + " |", "|---" * (len(everyone) + 1) + "|", *rows]


def _cell(score: Score | None) -> str:
    if score is None:
        return ""
    interval = f" ({score.low:.3f}–{score.high:.3f})" if score.low is not None and score.high is not None else ""
    return f"{score.value:.3f}{interval}"


def _made(plan: Plan) -> str:
    made = [f"{name}: {how}" for name, how in plan.data.made.items() if how != "given"]
    return f"Splits made by hfadapt: {'; '.join(made)}." if made else "The splits are the data's own."


def _choice(tried: Sequence[Mapping[str, float]]) -> list[str]:
    """What was tried after training, a table for each way of trying."""
    lines = ["Weights that were chosen among by the validation rows:", ""] if tried else []
    for names, rows in groupby(tried, key=tuple):
        lines += [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
        for row in rows:
            cells = (f"{row[name]:.4f}" if name == "score" else f"{row[name]:g}" for name in names)
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return lines


def _moved(plan: Plan) -> list[str]:
    lines = ["| stage | part | parameters | moving | learning rate |", "|---|---|---|---|---|"]
    for stage in plan.stages:
        for part, (total, moves, rates) in moving(plan, stage).items():
            how = ", ".join(map(rate, rates)) if moves else "frozen"
            lines.append(f"| {stage.name} | {part} | {size(total)} | {size(moves)} | {how} |")
    return lines
