"""A projection with a linear bottleneck beside it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Blended(nn.Module):
    """A projection f, blended with a map of what it gives: (1 - ratio) f + ratio W f, W = up · down.

    `up` starts at zero, so that all begins with the direction of f, and only the direction counts for a cosine.
    """

    def __init__(self, kept: nn.Linear, ratio: float, reduction: int):
        """reduction: how many times fewer dimensions the bottleneck has than the projection gives."""
        super().__init__()
        self.kept, self.ratio = kept, ratio
        width, like = kept.out_features, {"device": kept.weight.device, "dtype": kept.weight.dtype}
        self.down = nn.Linear(width, max(1, width // reduction), bias=False, **like)
        self.up = nn.Linear(self.down.out_features, width, bias=False, **like)
        nn.init.zeros_(self.up.weight)

    def forward(self, pooled: Tensor) -> Tensor:
        """pooled: what the tower ends in, (rows, hidden dimensions) → (rows, dimensions)."""
        found = self.kept(pooled)
        return (1 - self.ratio) * found + self.ratio * self.up(self.down(found))

    def merged(self) -> nn.Linear:
        """One plain layer that does the same."""
        with torch.no_grad():
            product = self.ratio * self.up.weight.double() @ self.down.weight.double()
            blend = product + (1 - self.ratio) * torch.eye(len(product), dtype=product.dtype, device=product.device)
            for parameter in self.kept.parameters():
                parameter.copy_(blend @ parameter.double())
        return self.kept
