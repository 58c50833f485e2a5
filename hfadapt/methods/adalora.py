"""Low-rank adapters that share out their ranks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from hfadapt.errors import HfadaptError, Problem
from hfadapt.methods._peft import PeftAdaptation
from hfadapt.methods.base import Companion, Stage, Surroundings, Term

if TYPE_CHECKING:
    from torch import nn

    from hfadapt.backbones.base import Anatomy


class AdaLora(PeftAdaptation):
    """Low-rank adapters that share out their ranks (AdaLoRA, Zhang et al. 2023, https://arxiv.org/abs/2303.10512).

    Every layer starts with the rank `init_r`; while it trains, the singular values that matter least are taken away,
    until `target_r` a layer are left on average.

    When to use: as `lora`, where layers differ in how much they must change. Compared with `lora`: the same size in
    the end, more at first, and slower a step; needs some hundred steps to tell what matters. Keys are those of
    `peft.AdaLoraConfig`: `init_r`, `target_r`, `lora_alpha`, `orth_reg_weight`, `deltaT`, `target_modules` …
    `tinit` steps pass before the ranks shrink and `tfinal` after, a tenth and three tenths of all steps where
    they are not given.
    """

    config: ClassVar[str] = "peft.tuners.adalora.config:AdaLoraConfig"
    rate: ClassVar[float | None] = 2e-3
    convolutions: ClassVar[bool] = True
    divisible: ClassVar[bool] = False
    unserved: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("r", "rank_pattern"), "AdaLoRA goes from init_r to target_r by itself."
    ) | {"total_step": "hfadapt takes the number of steps from the training."}

    @model_validator(mode="after")
    def _shrinks(self) -> AdaLora:
        given = self.__pydantic_extra__ or {}
        first, last = given.get("init_r", 12), given.get("target_r", 8)
        if not 0 < last < first:
            says = "target_r {last} should be above 0 and below init_r {first}: ranks are taken away."
            raise PydanticCustomError("ranks", says, {"last": last, "first": first})
        return self

    def derived(self, model: nn.Module, targets: Collection[str]) -> dict[str, Any]:
        """A number of steps that peft accepts, until training tells how many there are."""
        given = self.__pydantic_extra__ or {}
        return {"total_step": given.get("tinit", 0) + given.get("tfinal", 0) + 1}

    def stages(self, model: nn.Module, anatomy: Anatomy) -> Sequence[Stage]:
        """One stage in which the adapters and the head move; what peft notes of the ranks is no parameter."""
        (stage,) = super().stages(model, anatomy)
        return [Stage(stage.name, {name: 1.0 for name in stage.speeds if ".ranknum." not in name})]

    def terms(self, model: nn.Module, anatomy: Anatomy, around: Surroundings) -> Sequence[Term]:
        """How far the singular vectors are from orthogonal."""
        from hfadapt.methods._adalora import Orthogonality

        return [Orthogonality(model)]

    def companions(self, model: nn.Module, anatomy: Anatomy, around: Surroundings) -> Sequence[Companion]:
        """What takes the ranks away."""
        from hfadapt.methods._adalora import Allocation

        return [Allocation(self.shrinking)]

    def shrinking(self, steps: int) -> tuple[int, int]:
        """Of all steps, those before the ranks shrink and those after.

        Raises:
            HfadaptError: they leave none in which ranks shrink.
        """
        given = self.__pydantic_extra__ or {}
        first, last = int(given.get("tinit", steps // 10)), int(given.get("tfinal", 3 * steps // 10))
        # The last time that ranks shrink needs scores of a step before.
        if steps - last < max(2, first + 1):
            says = f"Of {steps:,} steps none is left in which ranks shrink: tinit is {first:,}, tfinal {last:,}."
            raise HfadaptError(Problem(says, "adapt"))
        return first, last

    def check_steps(self, steps: Sequence[int]) -> None:
        """Some are left in which ranks shrink."""
        for number in steps:
            self.shrinking(number)
