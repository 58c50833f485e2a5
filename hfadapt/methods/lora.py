"""Low-rank adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from hfadapt.methods._peft import PeftAdaptation
from hfadapt.methods.base import Stage

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hfadapt.backbones.base import Anatomy

_FROM_DATA = ("eva", "corda", "loftq", "lora_ga")
"""Initialisations that need rows, gradients or quantisation before training."""
_OF_WEIGHTS = ("pissa", "olora")
"""Those that move a part of the weights into the adapter, so that what stays frozen is the rest of them."""


class Lora(PeftAdaptation):
    """LoRA (Hu et al. 2021, https://arxiv.org/abs/2106.09685) on every linear layer of the blocks;
    where they have none, on their convolutions.

    When to use: large backbones, little memory, or many adapted models of one base. Needs a larger
    learning rate than `full`, 1e-4 to 5e-4. Compared with `full`: a hundredth of the optimizer state,
    nearly the same score. Keys are those of `peft.LoraConfig`: `r`, `lora_alpha`, `lora_dropout`,
    `target_modules` … Relatives of LoRA are among them: `use_dora: true` (DoRA, https://arxiv.org/abs/2402.09353),
    `use_rslora: true` (https://arxiv.org/abs/2312.03732), `init_lora_weights: pissa`
    (https://arxiv.org/abs/2404.02948) or `olora` (https://arxiv.org/abs/2406.01775).
    """

    loraplus_lr_ratio: Annotated[float, Field(gt=0)] | None = Field(default=None, exclude_if=lambda v: v is None)
    """LoRA+ (Hayou et al. 2024, https://arxiv.org/abs/2402.12354): the factor on the learning rate of the B
    matrices, which start at zero; 2 to 16."""

    config: ClassVar[str] = "peft.tuners.lora.config:LoraConfig"
    convolutions: ClassVar[bool] = True
    # `keep` does this by itself.
    moot: ClassVar[tuple[str, ...]] = ("Using Rank-Stabilized LoRA with rank_pattern",)
    unserved: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("eva_config", "corda_config", "lora_ga_config", "loftq_config"),
        "hfadapt starts adapters from random numbers or from the weights, not from a pass over data.",
    ) | dict.fromkeys(
        ("monteclora_config", "kasa_config", "velora_config", "arrow_config", "use_bdlora", "alora_invocation_tokens"),
        "hfadapt does not train this variant of LoRA.",
    )

    @model_validator(mode="after")
    def _starts_without_data(self) -> Lora:
        start = (self.__pydantic_extra__ or {}).get("init_lora_weights")
        if start in _FROM_DATA:
            says = "init_lora_weights '{start}' starts from a pass over data, which hfadapt does not make."
            raise PydanticCustomError("peft", says, {"start": start})
        return self

    def without_weights(self, config: Any) -> None:
        """Decompositions need weights; the shapes of A and B do not depend on them."""
        if self._decomposes():
            config.init_lora_weights = True

    def wrap(self, model: nn.Module, anatomy: Anatomy) -> nn.Module:
        """As any adapter; remembers where A and B start if the frozen weights are changed for them."""
        wrapped = super().wrap(model, anatomy)
        if self._decomposes() and not next(model.parameters()).is_meta:
            start = {name: p.detach().clone() for name, p in wrapped.state_dict().items() if _side(name)}
            wrapped.__dict__["started_from"] = start
        return wrapped

    def stages(self, model: nn.Module, anatomy: Anatomy) -> Sequence[Stage]:
        """One stage in which the adapters and the head move, the B matrices perhaps faster."""
        (stage,) = super().stages(model, anatomy)
        ratio = self.loraplus_lr_ratio or 1.0
        return [Stage(stage.name, {name: ratio if _side(name) == "B" else 1.0 for name in stage.speeds})]

    def keep(self, model: nn.Module, folder: Path, **more: Any) -> None:
        """Save the adapter; one that took a part of the weights along becomes one beside the whole weights.

        Loading such an adapter would decompose the base again, which need not give the same parts.
        """
        start: dict[str, Tensor] | None = model.__dict__.get("started_from")
        if start is None:
            super().keep(model, folder, **more)
            return
        config: Any = model.peft_config["default"]  # type: ignore[index,union-attr]
        before = {name: getattr(config, name) for name in _WIDENED}
        whole = {n: _beside(n, p, start[n]) if n in start else p for n, p in model.state_dict().items()}
        for name, value in _widened(config).items():
            setattr(config, name, value)
        super().keep(model, folder, state_dict=whole, **more)
        for name, value in before.items():
            setattr(config, name, value)

    def _decomposes(self) -> bool:
        start = (self.__pydantic_extra__ or {}).get("init_lora_weights")
        return isinstance(start, str) and start.startswith(_OF_WEIGHTS)


_WIDENED = ("init_lora_weights", "r", "lora_alpha", "rank_pattern", "alpha_pattern")


def _widened(config: Any) -> dict[str, Any]:
    """The fields of a config for twice the rank and the same scale."""
    scale = 2**0.5 if config.use_rslora else 2
    return {
        "init_lora_weights": True,
        "r": 2 * config.r,
        "lora_alpha": scale * config.lora_alpha,
        "rank_pattern": {name: 2 * rank for name, rank in config.rank_pattern.items()},
        "alpha_pattern": {name: scale * alpha for name, alpha in config.alpha_pattern.items()},
    }


def _beside(name: str, now: Tensor, start: Tensor) -> Tensor:
    """B A - B0 A0 as one product: [B, -B0] [A; A0].

    The frozen weights are W - B0 A0 (section 3 of https://arxiv.org/abs/2404.02948), so that this is what is
    added to W.
    """
    import torch

    start = start.to(now)
    return torch.cat([now, start], dim=0) if _side(name) == "A" else torch.cat([now, -start], dim=1)


def _side(name: str) -> str:
    """`A` or `B` for a parameter of a LoRA, else nothing."""
    words = name.split(".")
    return next((side for side in "AB" if f"lora_{side}" in words or f"lora_embedding_{side}" in words), "")
