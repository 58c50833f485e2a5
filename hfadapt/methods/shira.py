"""A few entries of each weight, chosen at random."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, ClassVar

from hfadapt.methods._peft import PeftAdaptation, widths

if TYPE_CHECKING:
    from torch import nn

    from hfadapt.backbones.base import Anatomy


class SHiRA(PeftAdaptation):
    """A few entries of each weight, chosen at random (SHiRA, Bhardwaj et al. 2024, https://arxiv.org/abs/2406.13175).

    SHiRA, sparse high-rank adapters: a few in a hundred entries of a weight train, the others stay.

    When to use: adapters that are swapped often, or several of them added up. Compared with `lora`: as many parameters
    at the same `r` and changes of high rank; no product to compute, but the gradient of the whole weight. Keys are
    those of `peft.ShiraConfig`: `r`, `random_seed`, `target_modules` … `r` is at most 32, and so small that no weight
    has fewer than r (inputs + outputs) entries, where it is not given.
    """

    config: ClassVar[str] = "peft.tuners.shira.config:ShiraConfig"

    def derived(self, model: nn.Module, targets: Collection[str]) -> dict[str, Any]:
        """A rank that leaves entries to choose from in every weight."""
        rooms = [inputs * outputs // (inputs + outputs) for inputs, outputs in widths(model, targets)]
        return {"r": max(1, min([32, *rooms]))}

    def without_weights(self, config: Any) -> None:
        """The places of the entries need a device with values; their number does not."""
        config.mask_fn = None

    def wrap(self, model: nn.Module, anatomy: Anatomy) -> nn.Module:
        """As any adapter."""
        import torch

        # torch would warn at the first step that it does not check sparse tensors, which it never does by default.
        torch.sparse.check_sparse_tensor_invariants.disable()
        return super().wrap(model, anatomy)
