"""The code that a card gives its reader: plain transformers, ready to run."""

from __future__ import annotations

import json

from hfadapt.card import PLACE
from hfadapt.card.markdown import discreet, one_line
from hfadapt.planning import Plan

_LONGEST = 120
"""Of an example text, in characters."""
_SHOWN_NAMES = 6


def lines(plan: Plan) -> list[str]:
    """Python that loads the model through its pipeline and asks it once."""
    task = plan.recipe.task
    asked = {"text": _texts, "image": _pictures, "image-text": _pairs}[task.modality](plan)
    return ["from transformers import pipeline", "", f'model = pipeline("{task.pipeline}", model="{PLACE}")', *asked]


def examples(plan: Plan, most: int = 3) -> list[str]:
    """Short texts of the validation split, one a label as far as they go; none that a person's data are in."""
    rows = plan.data.splits["validation"]
    if "text" not in rows.column_names:
        return []
    found: dict[object, str] = {}
    for text, target in zip(rows["text"][:], rows["label"][:] if "label" in rows.column_names else (), strict=False):
        shown = one_line(text)
        kind = tuple(target) if isinstance(target, list) else target if plan.data.labels.names else len(found)
        if kind not in found and 8 <= len(shown) <= _LONGEST and _public(shown):
            found[kind] = shown
        if len(found) == most:
            break
    return list(found.values())


def _public(text: str) -> bool:
    """Whether a text has no address, link, path or token in it."""
    return not any(mark in text for mark in ("@", "://", "\\")) and discreet(text) == text


def _texts(plan: Plan) -> list[str]:
    shown = _quoted(next(iter(examples(plan)), "A text to judge."))
    if "text_pair" in plan.data.splits["train"].column_names:
        shown = f'{{"text": {shown}, "text_pair": "The second text of the pair."}}'
    # A pipeline cuts nothing by itself, and gives one label where there may be several.
    options = ", top_k=None" if plan.data.labels.kind == "labels" else ""
    return [f"print(model({shown}, truncation=True{options}))"]


def _pictures(plan: Plan) -> list[str]:
    options = ", top_k=None" if plan.data.labels.kind == "labels" else ""
    return [f'print(model("picture.png"{options}))']


def _pairs(plan: Plan) -> list[str]:
    names, templates = plan.data.labels.names, getattr(plan.recipe.task, "templates", ["{}"])
    if not names:
        asked = [*examples(plan, 2), "something else entirely"][:2]
        return [
            f"texts = [{', '.join(map(_quoted, asked))}]",
            'print(model("picture.png", candidate_labels=texts, hypothesis_template="{}"))',
        ]
    few = [_quoted(name.replace("_", " ")) for name in names[:_SHOWN_NAMES]]
    more = [f"# and {len(names) - _SHOWN_NAMES} more"] if len(names) > _SHOWN_NAMES else []
    return [
        f"classes = [{', '.join(few)}]{'  ' if more else ''}{''.join(more)}",
        f'print(model("picture.png", candidate_labels=classes, hypothesis_template={_quoted(templates[0])}))',
    ]


def _quoted(text: str) -> str:
    """A text as a literal of Python: JSON's are, and never end a fence of backticks."""
    return json.dumps(one_line(text), ensure_ascii=False).replace("```", "\\x60\\x60\\x60")
