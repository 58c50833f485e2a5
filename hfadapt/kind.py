"""What a row is answered with: the one word that tasks, data and scores share."""

from typing import Literal

Kind = Literal["label", "labels", "number"]
"""One label, any number of labels, or a number."""
IGNORED = -100
"""The target of an item that counts for nothing; transformers' and torch's convention."""
