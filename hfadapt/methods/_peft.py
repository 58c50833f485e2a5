"""What all adapters of the peft library share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ConfigDict, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

from hfadapt import upstream
from hfadapt.methods.base import Adaptation, Stage

if TYPE_CHECKING:
    from torch import nn

    from hfadapt.backbones.base import Anatomy


class PeftAdaptation(Adaptation):
    """An adapter that peft inserts into the blocks; the head trains in full.

    Every key is a field of the peft config class named by `config`, checked against the installed peft.
    """

    model_config = ConfigDict(extra="allow")

    config: ClassVar[str]
    """`module:Class` of the peft configuration."""
    ours: ClassVar[frozenset[str]] = frozenset({"task_type", "peft_type", "inference_mode", "modules_to_save"})
    """Fields that hfadapt derives from the model."""

    @model_validator(mode="after")
    def _upstream_fields(self) -> PeftAdaptation:
        known = {k: v for k, v in upstream.fields(self.config).items() if k not in self.ours}
        name = self.config.partition(":")[2]
        errors: list[InitErrorDetails] = [
            {"type": PydanticCustomError("peft", "{says}", {"says": says}), "loc": (key,), "input": None}
            for key, says in upstream.wrong(self.__pydantic_extra__ or {}, known, name)
        ]
        if errors:
            raise ValidationError.from_exception_data(name, errors)
        return self

    def wrap(self, model: nn.Module, anatomy: Anatomy) -> nn.Module:
        """Insert adapters into every linear layer of the blocks, unless the recipe names others."""
        import peft
        from transformers.pytorch_utils import Conv1D

        options: dict[str, Any] = dict(self.__pydantic_extra__ or {})
        linear = anatomy.linear_layers(model)
        options.setdefault("target_modules", sorted(linear))
        if any(isinstance(model.get_submodule(name), Conv1D) for name in linear):
            options.setdefault("fan_in_fan_out", True)
        config = getattr(peft, self.config.partition(":")[2])(
            modules_to_save=anatomy.head_modules(), inference_mode=False, **options
        )
        on_meta = next(model.parameters()).is_meta
        return peft.get_peft_model(model, config, low_cpu_mem_usage=on_meta)  # type: ignore[arg-type]

    def stages(self, model: nn.Module, anatomy: Anatomy) -> Sequence[Stage]:
        """One stage in which the adapters and the head move."""
        moving = [name for name, p in model.named_parameters() if p.requires_grad]
        return [Stage(self.name, dict.fromkeys(moving, 1.0))]

    def keep(self, model: nn.Module, folder: Path) -> None:
        """Save the adapter, head included, into `adapter/`.

        peft would add a card that names the local path of the base model; ours is the run's.
        """
        model.save_pretrained(folder / "adapter")  # type: ignore[operator]
        (folder / "adapter" / "README.md").unlink(missing_ok=True)

    def finish(self, model: nn.Module) -> nn.Module:
        """Merge the adapters into the weights."""
        return model.merge_and_unload()  # type: ignore[operator,no-any-return]
