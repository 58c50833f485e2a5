"""What all adapters of the peft library share."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ConfigDict, Field, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

from hfadapt import upstream
from hfadapt.backbones._selecting import Blocks, as_slice, blocks_of
from hfadapt.errors import HfadaptError, Problem, one_line
from hfadapt.methods.base import Adaptation, Stage

if TYPE_CHECKING:
    from torch import nn

    from hfadapt.backbones.base import Anatomy


class PeftAdaptation(Adaptation):
    """An adapter that peft inserts into the blocks; the head trains in full.

    Every key but those declared here is a field of the peft config class named by `config`, checked against the
    installed peft. What peft's default does not fit, such as a block size that must divide the width of every
    layer, follows from the model where the recipe does not say it; see `derived`.
    """

    model_config = ConfigDict(extra="allow")

    # Left out of a recipe where it is not given, as peft's own fields are.
    layers: Blocks | None = Field(default=None, exclude_if=lambda value: value is None)
    """A slice of the blocks that get adapters, as Python writes it: `-4:`; of each tower. Else all of them."""

    rate: ClassVar[float | None] = 5e-4
    config: ClassVar[str]
    """`module:Class` of the peft configuration."""
    ours: ClassVar[frozenset[str]] = frozenset({"task_type", "peft_type", "inference_mode", "modules_to_save"})
    """Fields that hfadapt derives from the model."""
    unserved: ClassVar[Mapping[str, str]] = {}
    """Fields of which hfadapt makes no use, each with the reason."""
    convolutions: ClassVar[bool] = False
    """Whether peft puts this adapter into convolutions too, and merges it there."""
    unfit: ClassVar[Mapping[str, str]] = {}
    """Kinds of backbones in which peft's layer fails when it is called, each with the reason."""
    moot: ClassVar[tuple[str, ...]] = ()
    """How warnings of peft begin that tell of nothing amiss."""

    @model_validator(mode="after")
    def _upstream_fields(self) -> PeftAdaptation:
        fields = upstream.fields(self.config)
        known = {k: v for k, v in fields.items() if k not in self.ours | self.unserved.keys()}
        # Those declared by the class have been checked, and are among what a misspelt key may mean.
        known |= {name: upstream.Field(name, frozenset()) for name in type(self).model_fields}
        name, given = self.config.partition(":")[2], self.__pydantic_extra__ or {}
        served = {key: value for key, value in given.items() if key not in self.unserved}
        problems = [*upstream.wrong(served, known, name), *_out_of_range(given)]
        problems += [(key, self.unserved[key]) for key in given if key in self.unserved]
        if self.layers and "target_modules" in given:
            problems.append(("layers", "Give 'layers' or 'target_modules', not both."))
        errors: list[InitErrorDetails] = [
            {"type": PydanticCustomError("peft", "{says}", {"says": says}), "loc": (key,), "input": None}
            for key, says in problems
        ]
        if errors:
            raise ValidationError.from_exception_data(name, errors)
        return self

    def targets(self, model: nn.Module, anatomy: Anatomy) -> list[str]:
        """The names of the modules that get adapters, where the recipe names none: every linear layer of the blocks.

        Where the blocks have none, their convolutions.

        Raises:
            HfadaptError: this kind of adapter does not fit the layers that there are.
        """
        from torch import nn

        found = anatomy.linear_layers(model)
        if not self.convolutions and all(isinstance(model.get_submodule(name), nn.Conv2d) for name in found):
            kind = model.config.model_type  # type: ignore[union-attr]
            says = f"{self.name} adapts linear layers only, and the blocks of '{kind}' hold none."
            raise HfadaptError(Problem(says, "adapt", hint="Take lora, or a method that adds no adapters."))
        return found

    def derived(self, model: nn.Module, targets: Collection[str]) -> dict[str, Any]:
        """Fields of the config that follow from the adapted layers, where the recipe does not give them."""
        return {}

    def without_weights(self, config: Any) -> None:
        """Change a config so that its adapters can be made while the model has no weights, in the same shapes."""

    def wrap(self, model: nn.Module, anatomy: Anatomy) -> nn.Module:
        """Insert adapters into every linear layer of the blocks, unless the recipe names others.

        Head parameters that the model itself owns, such as the temperature of CLIP, stay as they are.

        Raises:
            HfadaptError: the adapters do not fit the layers, or the slice of blocks is empty.
        """
        import peft
        from transformers.pytorch_utils import Conv1D

        kind = str(model.config.model_type)  # type: ignore[union-attr]
        if why := self.unfit.get(kind):
            raise HfadaptError(Problem(f"{self.name} does not fit backbones of the kind '{kind}': {why}.", "adapt"))
        options: dict[str, Any] = dict(self.__pydantic_extra__ or {})
        if "target_modules" not in options:
            options["target_modules"] = sorted(self._inside(self.targets(model, anatomy), anatomy))
        _check_targets(options["target_modules"], model)
        adapted = _matching(options["target_modules"], model)
        fields = upstream.fields(self.config).keys()
        if "fan_in_fan_out" in fields and any(isinstance(model.get_submodule(name), Conv1D) for name in adapted):
            options.setdefault("fan_in_fan_out", True)
        options = self.derived(model, adapted) | options
        on_meta = next(model.parameters()).is_meta
        try:
            with warnings.catch_warnings():
                for beginning in self.moot:
                    warnings.filterwarnings("ignore", message=beginning)
                config: Any = getattr(peft, self.config.partition(":")[2])(
                    modules_to_save=anatomy.head_modules(), inference_mode=False, **options
                )
                if on_meta:
                    self.without_weights(config)
                wrapped: nn.Module = peft.get_peft_model(model, config, low_cpu_mem_usage=on_meta)  # type: ignore[arg-type]
        except (ValueError, TypeError, KeyError, NotImplementedError, RuntimeError, ImportError) as error:
            says = one_line(str(error)).rstrip(".")
            raise HfadaptError(Problem(f"peft refuses this: {says}.", "adapt")) from error
        if all(".modules_to_save." in name for name, p in wrapped.named_parameters() if p.requires_grad):
            raise HfadaptError(Problem(f"peft puts {self.name} into no layer of a '{kind}'.", "adapt"))
        _show_geometry(wrapped)
        return wrapped

    def _inside(self, names: Sequence[str], anatomy: Anatomy) -> list[str]:
        """Those of the modules that lie inside the chosen blocks."""
        if self.layers is None:
            return list(names)
        wanted = as_slice(self.layers)
        for tower in anatomy.towers:
            blocks_of(tower, wanted, self.layers, "adapt.layers")
        chosen = tuple(f"{block}." for tower in anatomy.towers for block in tower.block_modules[wanted])
        return [name for name in names if f"{name}.".startswith(chosen)]

    def stages(self, model: nn.Module, anatomy: Anatomy) -> Sequence[Stage]:
        """One stage in which the adapters and the head move."""
        return [Stage(self.name, {name: 1.0 for name, p in model.named_parameters() if p.requires_grad})]

    def keep(self, model: nn.Module, folder: Path, **more: Any) -> None:
        """Save the adapter, head included, into `adapter/`.

        peft would ask the Hub whether the vocabulary has grown, and add a card that names the local path of the base
        model; ours is the run's.
        """
        if str(model.config.model_type) in _MERGED_ONLY:  # type: ignore[union-attr]
            return
        for config in model.peft_config.values():  # type: ignore[operator, union-attr]
            config.base_model_name_or_path = model.config.name_or_path  # type: ignore[union-attr]
        model.save_pretrained(folder / "adapter", save_embedding_layers=False, **more)  # type: ignore[operator]
        (folder / "adapter" / "README.md").unlink(missing_ok=True)

    def finish(self, model: nn.Module) -> nn.Module:
        """Merge the adapters into the weights."""
        from peft.utils import ModulesToSaveWrapper

        # peft takes some heads for layers of its own, and not every kind of adapter unwraps them.
        for name, module in list(model.named_modules()):
            if isinstance(module, ModulesToSaveWrapper):
                parent, _, child = name.rpartition(".")
                setattr(model.get_submodule(parent), child, module.modules_to_save["default"])
        plain: nn.Module = model.merge_and_unload()  # type: ignore[operator]
        return plain


_MERGED_ONLY = {"mobilenet_v2"}
"""Kinds whose adapters plain peft cannot run: they pad by the stride of their convolutions, which peft's layers do not
have. What is merged is whole."""


def widths(model: nn.Module, names: Collection[str]) -> list[tuple[int, int]]:
    """(inputs, outputs) of each named layer, where it is a linear one or a convolution."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    found = []
    for layer in map(model.get_submodule, names):
        if isinstance(layer, nn.Linear):
            found.append((layer.in_features, layer.out_features))
        elif isinstance(layer, nn.Conv2d):
            found.append((layer.in_channels, layer.out_channels))
        elif isinstance(layer, Conv1D):
            found.append((layer.weight.shape[0], layer.weight.shape[1]))
    return found


def divisor(numbers: Collection[int], limit: int, *, multiple_of: int = 1) -> int:
    """The greatest common divisor not above a limit; 1 where there is none that is a multiple of a number."""
    return next((n for n in range(limit, 0, -1) if n % multiple_of == 0 and not any(m % n for m in numbers)), 1)


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


def _matching(targets: Any, model: nn.Module) -> list[str]:
    """The names of the modules that a list of names, or of ends of names, means; none for a pattern."""
    ends = targets if isinstance(targets, list) else []
    return [name for name, _ in model.named_modules() if any(f".{name}".endswith(f".{end}") for end in ends)]
