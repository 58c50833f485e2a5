"""An embedding of which a few rows are learnt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class LearntRows(nn.Module):
    """An embedding whose rows of some tokens are parameters of their own, so that no other row can move.

    A mask on the gradient would not do: weight decay moves a row without any, and the optimizer would hold
    moments of the whole vocabulary.
    """

    def __init__(self, kept: nn.Embedding, first: int, starts: Sequence[Sequence[int]]):
        """first: the id of the first learnt token, which the others follow; starts: for each learnt token the ids
        whose rows' mean it starts from."""
        super().__init__()
        self.kept, self.first = kept, first
        with torch.no_grad():
            self.learnt = nn.Parameter(torch.stack([kept.weight[list(ids)].mean(0) for ids in starts]))
        """(learnt tokens, dimensions)"""

    def forward(self, ids: Tensor) -> Tensor:
        """ids: of any shape → the same shape and (dimensions,)."""
        places = ids - self.first
        ours = (places >= 0) & (places < len(self.learnt))
        # Lookups instead of one in a joined table: that would be a copy of the vocabulary for every batch.
        found = self.kept(ids.masked_fill(ours, 0))
        return torch.where(
            ours[..., None], functional.embedding(places.clamp(0, len(self.learnt) - 1), self.learnt), found
        )

    def merged(self) -> nn.Embedding:
        """A plain embedding of the whole vocabulary, the learnt rows in their places."""
        with torch.no_grad():
            rows = max(self.kept.num_embeddings, self.first + len(self.learnt))
            weight = self.kept.weight.new_zeros(rows, self.kept.embedding_dim)
            weight[: self.kept.num_embeddings] = self.kept.weight
            weight[self.first : self.first + len(self.learnt)] = self.learnt
            return nn.Embedding.from_pretrained(weight, freeze=False, padding_idx=self.kept.padding_idx)
