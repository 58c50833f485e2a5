"""What goes along with AdaLoRA: its term of the loss, and the allocation of ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from hfadapt.methods.base import Companion, Stage, Term

_SCORES = ("ipt", "exp_avg_ipt", "exp_avg_unc")


class Orthogonality(Term):
    """The mean distance of the singular vectors from orthogonal, times `orth_reg_weight`; equation 4 of
    https://arxiv.org/abs/2303.10512, with norms instead of their squares as peft has it.
    """

    def __init__(self, model: Any):
        """model: a PeftModel with adapters of AdaLoRA."""
        self.weight = float(model.peft_config["default"].orth_reg_weight)
        named = list(model.named_parameters())
        # Rows are vectors.
        self.vectors = [(p, False) for name, p in named if ".lora_A." in name]
        self.vectors += [(p, True) for name, p in named if ".lora_B." in name]

    def __call__(self, inputs: Mapping[str, Tensor], outputs: Any) -> Tensor:
        """A scalar, ()."""
        apart = []
        for parameter, turned in self.vectors:
            rows = parameter.T if turned else parameter
            apart.append(torch.linalg.matrix_norm(rows @ rows.T - torch.eye(len(rows), device=rows.device)))
        return self.weight * torch.stack(apart).mean()


class Allocation(Companion):
    """Takes singular values away after each step, by peft's `RankAllocator`.

    The pattern of ranks stays here, not in peft's config: a checkpoint written with one would hold matrices of
    another size than those that train.
    """

    def __init__(self, shrinking: Callable[[int], tuple[int, int]]):
        """shrinking: of a number of steps, those before the ranks shrink and those after."""
        self.shrinking = shrinking
        self.pattern: dict[str, list[bool]] = {}

    def began(self, model: Any, stage: Stage, steps: int) -> None:
        """Tell peft how many steps there are."""
        self.config = model.peft_config["default"]
        self.allocator, self.device = model.base_model.rankallocator, next(model.parameters()).device
        self.config.tinit, self.config.tfinal = self.shrinking(steps)
        self.config.total_step = steps
        self.pattern = {}
        self.allocator.reset_ipt()

    def stepped(self, model: Any, step: int) -> None:
        """Weigh the singular values, and set those to zero that the budget of this step does not cover."""
        body, end = model.base_model.model, self.config.total_step - self.config.tfinal
        if step > end:
            self.allocator.mask_using_rank_pattern(body, self.pattern)
            return
        _, found = self.allocator.update_and_allocate(body, step, force_mask=step == end)
        self.pattern = found or self.pattern
        if step == end:
            self.allocator.reset_ipt()

    def state(self) -> dict[str, Tensor]:
        """The scores of the singular values, and which of them are left."""
        scores = {f"{kind}/{name}": t for kind in _SCORES for name, t in getattr(self.allocator, kind).items()}
        return scores | {f"pattern/{name}": torch.tensor(kept) for name, kept in self.pattern.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on where the state was taken."""
        for kind in _SCORES:
            setattr(self.allocator, kind, {name: score.to(self.device) for name, score in _below(state, kind).items()})
        self.pattern = {name: kept.tolist() for name, kept in _below(state, "pattern").items()}


def _below(state: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    return {name.partition("/")[2]: tensor for name, tensor in state.items() if name.startswith(f"{kind}/")}
