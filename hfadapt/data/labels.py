"""The labels of a task: names, the ids that a model knows them by, and their order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hfadapt.kind import Kind


@dataclass(frozen=True)
class Labels:
    """What a model can answer with; a label's id is its place in `names`."""

    kind: Kind
    names: tuple[str, ...] = ()
    """Empty where the answer is a number, or, of pairs, where they have no labels."""

    def __len__(self) -> int:
        """How many outputs the head has."""
        return 1 if self.kind == "number" else len(self.names)

    @cached_property
    def id_of(self) -> dict[str, int]:
        """Name → id."""
        return {name: i for i, name in enumerate(self.names)}

    def shown(self, limit: int = 12) -> str:
        """The names as one line for a person: `'negative', 'positive'`."""
        other = "which text belongs to which picture" if self.kind == "pairs" else "a number"
        return shown_names(self.names, limit) if self.names else other


def shown_names(names: tuple[str, ...] | list[str], limit: int = 12) -> str:
    """Names quoted and joined, the rest counted: `'a', 'b' and 75 more`."""
    listed = ", ".join(f"'{name[:60]}'" for name in names[:limit])
    return listed if len(names) <= limit else f"{listed} and {len(names) - limit:,} more"
