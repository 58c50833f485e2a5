"""The Hub's metadata in front of a card (https://huggingface.co/docs/hub/model-cards)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hfadapt.card import origins, snippets
from hfadapt.card.markdown import one_line
from hfadapt.planning import Plan
from hfadapt.scoring.table import cell
from hfadapt.scoring.tally import Score

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

METRICS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "balanced_accuracy": ("recall", {"average": "macro"}),
    "f1_macro": ("f1", {"average": "macro"}),
    "f1_micro": ("f1", {"average": "micro"}),
    "precision_macro": ("precision", {"average": "macro"}),
    "precision_micro": ("precision", {"average": "micro"}),
    "recall_macro": ("recall", {"average": "macro"}),
    "recall_micro": ("recall", {"average": "micro"}),
    "mcc": ("matthews_correlation", {}),
    "roc_auc_macro": ("roc_auc", {"average": "macro"}),
    "map": ("average_precision", {"average": "macro"}),
    "pearson": ("pearsonr", {}),
    "spearman": ("spearmanr", {}),
    "r2": ("r_squared", {}),
    "zero_shot_accuracy": ("accuracy", {}),
    "zero_shot_f1_macro": ("f1", {"average": "macro"}),
    "base_accuracy": ("accuracy", {}),
    "new_accuracy": ("accuracy", {}),
}
"""Our name of a metric → its id at https://huggingface.co/metrics and its arguments, where they are not the same."""


AT_HUB = frozenset({"accuracy", "exact_match", "mae", "roc_auc", *(kind for kind, _ in METRICS.values())}) - {
    "average_precision"
}
"""The ids that the Hub has a page for."""
ORDER = (
    "language", "license", "license_name", "license_link", "library_name", "pipeline_tag", "base_model",
    "base_model_relation", "datasets", "tags", "metrics", "widget",
)  # fmt: skip


def front(plan: Plan, scores: Mapping[str, Score]) -> ModelCardData:
    """The metadata; scores: of the test split, by metric."""
    from huggingface_hub import ModelCardData

    licence, base, data = origins.licence(plan), origins.base_model(plan), origins.dataset(plan)
    moved = any(stage.speeds for stage in plan.stages)
    shown = overall(scores)
    told: dict[str, Any] = {}
    if base and moved:
        # What is published are whole weights, also where an adapter was trained: it is merged.
        told["base_model_relation"] = "finetune"
    if examples := snippets.examples(plan) if _has_widget(plan) else []:
        told["widget"] = [{"text": text} for text in examples]
    return ModelCardData(
        language=origins.languages(plan) or None,
        license=licence.identifier if licence else None,
        license_name=licence.name if licence else None,
        license_link=licence.link if licence else None,
        library_name="transformers",
        pipeline_tag=plan.recipe.task.pipeline,
        base_model=base,
        datasets=[data] if data else None,
        tags=_tags(plan),
        metrics=[kind for kind in dict.fromkeys(hub_metric(name)[0] for name in shown) if kind in AT_HUB] or None,
        model_name=one_line(plan.recipe.name),
        eval_results=[_result(plan, name, score) for name, score in shown.items()] or None,
        **told,
    )


def lines(plan: Plan, scores: Mapping[str, Score]) -> list[str]:
    """The metadata as the lines that stand in front of a card."""
    return ["---", *front(plan, scores).to_yaml(original_order=list(ORDER)).splitlines(), "---"]


def overall(scores: Mapping[str, Score]) -> dict[str, Score]:
    """The scores that are not of one label, each told once: of rows with one label, micro F1 is accuracy."""
    shown = {name: score for name, score in scores.items() if "[" not in name}
    for name, twin in (("f1_micro", "accuracy"), ("balanced_accuracy", "recall_macro")):
        if name in shown and shown[name] == shown.get(twin):
            del shown[name]
    return shown


def hub_metric(name: str) -> tuple[str, Mapping[str, str]]:
    """The Hub's id of a metric, and its arguments."""
    _, recall, k = name.rpartition("recall@")
    return ("recall", {"k": k}) if recall else METRICS.get(name, (name, {}))


def interval(score: Score) -> str:
    """`0.824–0.917`; empty where there is none."""
    return cell(score).partition(" (")[2].removesuffix(")")


def _result(plan: Plan, name: str, score: Score) -> EvalResult:
    from huggingface_hub import EvalResult

    kind, arguments = hub_metric(name)
    data, its = origins.dataset(plan), plan.recipe.data
    return EvalResult(
        task_type=plan.recipe.task.pipeline,
        dataset_type=data or re.sub(r"[^a-z0-9]+", "-", f"local {origins.data_name(plan)}".lower()).strip("-"),
        dataset_name=origins.data_name(plan),
        dataset_config=its.name if data else None,
        dataset_split="test",
        dataset_revision=its.revision if data else None,
        metric_type=kind,
        metric_name=f"{name}, 95% interval {interval(score)}" if interval(score) else name,
        metric_value=score.value,
        metric_args=dict(arguments) or None,
    )


def _has_widget(plan: Plan) -> bool:
    """Whether the Hub's widget of the task takes a text alone."""
    texts = [role for role in plan.data.splits["train"].column_names if role in ("text", "text_pair")]
    return plan.recipe.task.modality == "text" and texts == ["text"]


def _tags(plan: Plan) -> list[str]:
    kinds = {"labels": ["multi-label-classification"], "number": ["regression"]}
    return ["hfadapt", plan.recipe.adapt.name, *kinds.get(plan.data.labels.kind, [])]
