"""What all adapters of the peft library share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ConfigDict, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

from hfadapt import upstream
from hfadapt.errors import HfadaptError, Problem
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
        name, given = self.config.partition(":")[2], self.__pydantic_extra__ or {}
        errors: list[InitErrorDetails] = [
            {"type": PydanticCustomError("peft", "{says}", {"says": says}), "loc": (key,), "input": None}
            for key, says in (*upstream.wrong(given, known, name), *_out_of_range(given))
        ]
        if errors:
            raise ValidationError.from_exception_data(name, errors)
        return self

    def wrap(self, model: nn.Module, anatomy: Anatomy) -> nn.Module:
        """Insert adapters into every linear layer of the blocks, unless the recipe names others.

        Where the blocks have none, into their convolutions. Head parameters that the model itself owns, such
        as the temperature of CLIP, stay as they are.
        """
        import peft
        from transformers.pytorch_utils import Conv1D

        options: dict[str, Any] = dict(self.__pydantic_extra__ or {})
        linear = anatomy.linear_layers(model)
        _check_targets(options.setdefault("target_modules", sorted(linear)), model)
        if any(isinstance(model.get_submodule(name), Conv1D) for name in linear):
            options.setdefault("fan_in_fan_out", True)
        config: Any = getattr(peft, self.config.partition(":")[2])(
            modules_to_save=anatomy.head_modules(), inference_mode=False, **options
        )
        on_meta = next(model.parameters()).is_meta
        try:
            wrapped = peft.get_peft_model(model, config, low_cpu_mem_usage=on_meta)  # type: ignore[arg-type]
        except (ValueError, TypeError) as error:
            raise HfadaptError(Problem(f"peft refuses this: {str(error).rstrip('.')}.", "adapt")) from error
        _show_geometry(wrapped)
        return wrapped

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


def _show_geometry(wrapped: nn.Module) -> None:
    """Let adapted convolutions answer as before to who asks for their stride: MobileNetV2 pads by it."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from torch import nn

    for module in wrapped.modules():
        if isinstance(module, BaseTunerLayer) and isinstance(base := module.get_base_layer(), nn.Conv2d):
            module.stride, module.kernel_size, module.dilation = base.stride, base.kernel_size, base.dilation


def _out_of_range(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, sentence) for numbers that no adapter can have."""
    for key, value in options.items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        if key in {"r", "lora_alpha"} and value <= 0:
            yield key, f"{value} is not a number above 0."
        elif key.endswith("dropout") and not 0 <= value <= 1:
            yield key, f"{value} is not in the range from 0 to 1."


def _check_targets(targets: Any, model: nn.Module) -> None:
    names = [name for name, _ in model.named_modules()]
    for target in targets if isinstance(targets, list) else ():
        if not any(name == target or name.endswith(f".{target}") for name in names):
            raise HfadaptError(Problem(f"The backbone has no module '{target}'.", "adapt.target_modules"))
