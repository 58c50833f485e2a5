"""Pure functions on texts, shared by whatever compares or counts them."""

from __future__ import annotations

import unicodedata

_UNSEEN = frozenset({"Cc", "Cf"})


def normalised(text: str) -> str:
    """The form in which two texts count as the same: canonical characters, no case, single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def is_blank(text: str) -> bool:
    """Whether nothing of the text can be seen: only spaces, control and zero-width characters."""
    if text[:1].isalnum():
        return False
    return all(c.isspace() or unicodedata.category(c) in _UNSEEN for c in text)
