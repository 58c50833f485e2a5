"""The card and what belongs to it, as files of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hfadapt.card import about, adapted, eval_results, history, metadata, reproducing, results, snippets
from hfadapt.card.markdown import discreet, escaped
from hfadapt.folder import Run
from hfadapt.planning import Plan
from hfadapt.scoring import drawing
from hfadapt.training.evaluating import Judged

TRAINING, CONFUSION, ADAPTER = "training.png", "confusion.png", "adapter"
EVAL_RESULTS = ".eval_results"


def write_card(
    plan: Plan,
    run: Run,
    judged: Mapping[str, Judged],
    baselines: Mapping[str, results.Scores],
    cost: Mapping[str, Any],
    tried: Sequence[Mapping[str, float]] = (),
) -> None:
    """Write `README.md`, and what it stands on: `training.png` and `.eval_results/`.

    judged: by split; baselines: the scores of simple methods; cost: see `adapted.section`; tried: the weights that
    the method chose among after training, and their scores on the validation rows.
    """
    drawing.course(run.path / TRAINING, history.course(plan, run.path / "log.jsonl"))
    for name, content in eval_results.files(plan, judged["test"].scores).items():
        (run.path / EVAL_RESULTS).mkdir(exist_ok=True)
        Run(run.path / EVAL_RESULTS).write(name, content)
    # Not the worst mistakes: what is in the pictures may be nobody's business.
    beside = [name for name in (TRAINING, CONFUSION, ADAPTER) if (run.path / name).exists()]
    cost = {**cost, **_machine(), "used": history.used(plan, run.path / "log.jsonl")}
    run.write("README.md", text(plan, judged, baselines, cost, tried, beside=beside))


def _machine() -> dict[str, Any]:
    """What trained, as far as it is nobody's name."""
    import torch
    from accelerate import PartialState

    processes = PartialState().num_processes
    threads = f"{torch.get_num_threads()} CPU threads" if torch.get_num_threads() > 1 else "one CPU thread"
    one = torch.cuda.get_device_name() if torch.cuda.is_available() else threads
    return {"processes": processes, "hardware": one if processes == 1 else f"{processes} × {one}"}


def text(
    plan: Plan,
    judged: Mapping[str, Judged],
    baselines: Mapping[str, results.Scores],
    cost: Mapping[str, Any],
    tried: Sequence[Mapping[str, float]] = (),
    *,
    beside: Sequence[str] = (),
) -> str:
    """The card as Markdown with the Hub's metadata in front.

    beside: which of `TRAINING`, `CONFUSION` and `ADAPTER` the run has.
    """
    scores = {split: its.scores for split, its in judged.items()}
    worst = results.worst(plan, judged["test"])
    sections = {
        "Use": ["```python", *snippets.lines(plan), "```"],
        "Results": results.section(plan, scores, baselines, drawn=CONFUSION in beside),
        "Where it does worst": worst,
        "Intended use and limits": about.limits(plan, baselines, scores),
        "Data": about.data(plan),
        "How it was adapted": adapted.section(plan, cost, tried, drawn=TRAINING in beside, merged=ADAPTER in beside),
        "How to do it again": reproducing.section(plan, int(cost.get("processes", 1))),
    }
    lines = [f"# {escaped(plan.recipe.name)}", "", about.summary(plan), ""]
    lines += [results.lead(plan, scores, baselines), ""]
    for title, its in sections.items():
        lines += [f"## {title}", "", *its, ""] if its else []
    body = "\n".join(lines).replace("\n\n\n", "\n\n").rstrip() + "\n"
    return discreet("\n".join([*metadata.lines(plan, scores["test"]), "", body]))
