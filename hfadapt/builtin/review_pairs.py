"""Pairs of the built-in reviews: of the same kind of thing, or not. Made anew each time, always the same."""

from __future__ import annotations

import csv
import random
from pathlib import Path

_REVIEWS = Path(__file__).parent / "reviews"


def make() -> dict[str, dict[str, list[str]]]:
    """Split → columns `text`, `text_pair`, `label` (same, different). Two pairs for each review.

    Pairs never cross the splits of the reviews, and each review opens one pair of each label, so that
    no text alone tells the label.
    """
    made = {}
    for path in sorted(_REVIEWS.glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        draw = random.Random(f"review-pairs {path.stem}")
        columns: dict[str, list[str]] = {"text": [], "text_pair": [], "label": []}
        for row in rows:
            for label, alike in (("same", True), ("different", False)):
                others = [o for o in rows if (o["kind"] == row["kind"]) is alike and o is not row]
                columns["text"].append(row["text"])
                columns["text_pair"].append(draw.choice(others)["text"])
                columns["label"].append(label)
        made[path.stem] = columns
    return made
