"""A text, or a pair of texts, to one label, several labels or a number."""

from __future__ import annotations

from typing import Any, ClassVar

from hfadapt.tasks._text import TextTask
from hfadapt.tasks.base import Role


class TextClassification(TextTask):
    """Classify texts or pairs of texts: sentiment, topic, intent, entailment, similarity.

    When to use: each row has a text (or two) and what is to be said of it.
    Inputs: `text`, perhaps `text_pair`, and `label`: a word or an integer (single-label), a list of
    words (multi-label), or a number (`problem_type: regression`).
    """

    roles: ClassVar[dict[str, Role]] = {
        "text": Role(
            "text", "The text.", ("text", "sentence", "review", "content", "sentence1", "premise", "question", "query")
        ),
        "text_pair": Role("text", "The second text of a pair.", optional=True),
        "label": Role(
            "target", "What is to be said of it.", ("label", "labels", "target", "class", "category", "score", "rating")
        ),
    }
    examples: ClassVar[tuple[dict[str, Any], ...]] = (
        {"text": "Arrived early, works perfectly, looks better than in the photo.", "label": "positive"},
        {"text": "It stopped charging after a week.", "label": "negative"},
        {"text": "I would buy this again tomorrow.", "label": "positive"},
        {"text": "Two hours late and nobody said why.", "label": "negative"},
    )
