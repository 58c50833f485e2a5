"""What a row is answered with: the one word that tasks, data and scores share."""

from typing import Literal

Kind = Literal["label", "labels", "number", "pairs"]
"""One label, any number of labels, a number, or which of many texts belongs to a picture and back."""
IGNORED = -100
"""The target of an item that counts for nothing; transformers' and torch's convention."""
