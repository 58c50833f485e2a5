"""What all tasks on pictures share: the image processor, and augmentation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from hfadapt.errors import DataError, HfadaptError, Problem
from hfadapt.section import Section
from hfadapt.tasks.base import Columns, Encoded, Task

if TYPE_CHECKING:
    import numpy as np

    from hfadapt.backbones.base import Source
    from hfadapt.data.augmenting import Augmenter
    from hfadapt.data.labels import Labels


class Augment(Section):
    """How training pictures are varied, drawn anew in each epoch from the seed, the epoch and the row."""

    crop: Annotated[float, Field(gt=0, le=1)] | None = None
    """The least share of the area that a random resized crop keeps; its sides are 3:4 to 4:3."""
    flip: Literal["horizontal", "vertical", "both"] | None = None
    """Mirror half of the pictures."""
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Turn by up to so many degrees either way."""
    rand_augment: Annotated[int, Field(ge=1, le=30)] | None = None
    """RandAugment (Cubuk et al. 2019, https://arxiv.org/abs/1909.13719): two operations of up to this strength."""
    trivial_augment: bool = False
    """TrivialAugment (Müller and Hutter 2021, https://arxiv.org/abs/2103.10158): one operation of random strength."""
    colour: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How much brightness, contrast, saturation and hue change."""
    erasing: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The chance that a rectangle is erased (Zhong et al. 2017, https://arxiv.org/abs/1708.04896)."""
    mixup: Annotated[float, Field(ge=0)] = 0.0
    """The alpha of mixup (Zhang et al. 2017, https://arxiv.org/abs/1710.09412); 0 is none."""
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    """The alpha of CutMix (Yun et al. 2019, https://arxiv.org/abs/1905.04899); with mixup, either is drawn."""

    @model_validator(mode="after")
    def _one_policy(self) -> Augment:
        if self.rand_augment and self.trivial_augment:
            raise PydanticCustomError("both", "Give 'rand_augment' or 'trivial_augment', not both.")
        return self

    @property
    def varies(self) -> bool:
        """Whether a picture is changed by itself."""
        return self.model_copy(update={"mixup": 0.0, "cutmix": 0.0}) != Augment()


class PictureTask(Task):
    """The base of tasks that look at pictures."""

    lazy: ClassVar[bool] = True

    augment: Augment = Augment()
    """Random changes to the training pictures; by default none."""

    @property
    def augments(self) -> bool:
        """Whether a training picture is changed by itself."""
        return self.augment.varies

    @property
    def varies(self) -> bool:
        """Whether the training pictures are augmented."""
        return self.augments

    def working_side(self, processor: Any) -> int | None:
        """The shorter side, in pixels, that a training picture is opened at before it is augmented.

        The least part that a crop keeps, 4:3, then still has the model's size; twice that is enough for anything.
        """
        return _working_side(self.augment.crop, _size(processor)) if self.augments else None

    def augmenter(self, processor: Any) -> Augmenter:
        """What varies the training pictures."""
        return _augmenter(self.augment, _size(processor))

    def vary(self, rows: Columns, processor: Any, draws: Sequence[np.random.Generator]) -> Columns:
        """The rows with augmented pictures."""
        side = self.working_side(processor)
        return {**rows, "image": self.augmenter(processor)((opened(cell, side) for cell in rows["image"]), draws)}

    def begin_to_vary(
        self, rows: Columns, processor: Any, draws: Sequence[np.random.Generator]
    ) -> tuple[Columns, list[int]]:
        """`vary` up to where kornia has its turn: cropped pictures as bytes, (3, height, width), and a seed for each.

        What is encoded has these bytes in place of what the processor makes of them.
        """
        import numpy as np

        side = self.working_side(processor)
        moved, seeds = self.augmenter(processor).moved((opened(cell, side) for cell in rows["image"]), draws)
        return {**rows, "image": [np.ascontiguousarray(np.asarray(one).transpose(2, 0, 1)) for one in moved]}, seeds


def image_processor(source: Source) -> Any:
    """The checkpoint's image processor.

    Raises:
        HfadaptError: it has none that transformers can load.
    """
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(source.path, **source.options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        needs = " without torchvision" if isinstance(error, ImportError) else ""
        says = f"'{source.name}' has no image processor that transformers can load{needs}."
        hint = "Save one into its folder (preprocessor_config.json)."
        raise HfadaptError(Problem(says, "model", hint=hint)) from error
    check_size(processor, source)
    return processor


def check_size(processor: Any, source: Source) -> None:
    """Refuse a processor whose pictures keep their shapes: they can't be stacked.

    Raises:
        HfadaptError: a square picture and a wide one come out in different sizes.
    """
    if picture_size(processor) != picture_size(processor, width=160):
        says = f"The image processor of '{source.name}' gives pictures of different sizes."
        hint = "Set do_center_crop, or a size with height and width, in its preprocessor_config.json."
        raise HfadaptError(Problem(says, "model", hint=hint))


def picture_size(processor: Any, width: int = 64) -> tuple[int, int]:
    """The height and width, in pixels, of what an image processor makes of a picture 64 pixels high."""
    from PIL import Image

    return tuple(pixels([Image.new("RGB", (width, 64))], processor)[0].shape[1:])  # type: ignore[return-value]


@lru_cache(maxsize=4)
def _size(processor: Any) -> tuple[int, int]:
    # Asked for each batch, and found by processing a picture.
    return picture_size(processor)


def _working_side(least: float | None, size: tuple[int, int]) -> int:
    most = 2 * max(size)
    return min(most, math.ceil(max(size) / math.sqrt(least * 3 / 4))) if least else most


def pixels(pictures: Sequence[Any], processor: Any, *, cropped: bool = False) -> list[np.ndarray]:
    """Model inputs of pictures, (3, height, width) float32 each.

    pictures: cells, or RGB pictures of Pillow, or inputs that were made already, or None for one that nobody will
    look at, which comes out as a lone pixel; cropped: whether pictures of Pillow have the model's size already, and
    the processor is not to take their middle once more.

    Raises:
        DataError: a picture can't be read any more.
    """
    import numpy as np

    if all(one is None for one in pictures):
        return [np.zeros((3, 1, 1), np.float32)] * len(pictures)
    if all(isinstance(one, np.ndarray) for one in pictures):
        return list(pictures)
    images = getattr(processor, "image_processor", processor)
    done = cropped and not any(isinstance(one, Mapping) for one in pictures) and hasattr(images, "do_resize")
    shown, options = [opened(one) for one in pictures], {}
    # That of timm's models gives tensors only, and takes no further arguments.
    if done:
        # The channels come first in the end: bytes are turned in less time than floats.
        shown = [np.ascontiguousarray(np.asarray(one).transpose(2, 0, 1)) for one in shown]
        options = {"do_resize": False, "do_center_crop": False, "input_data_format": "channels_first"}
    encoded = images(shown, return_tensors="pt", **options)
    return list(encoded["pixel_values"].numpy())


def unscaled(pictures: Sequence[Any], processor: Any) -> list[np.ndarray]:
    """What a processor makes of cells before it rescales and normalises them, (3, height, width) uint8 each.

    Raises:
        DataError: a picture can't be read any more.
        TypeError: it makes something else.
    """
    import numpy as np

    images = getattr(processor, "image_processor", processor)
    found = images([opened(one) for one in pictures], return_tensors="pt", do_rescale=False, do_normalize=False)
    made = found["pixel_values"].numpy()
    if made.dtype != np.uint8:
        raise TypeError(f"its pixels are {made.dtype} before they are rescaled")
    return list(made)


def tones(processor: Any) -> np.ndarray:
    """What a processor makes of each of the 256 values of a pixel by rescaling and normalising, (3, 256) float32."""
    import numpy as np
    from PIL import Image

    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (16, 256, 3))
    images = getattr(processor, "image_processor", processor)
    found = images([Image.fromarray(ramp)], return_tensors="pt", do_resize=False, do_center_crop=False)
    return np.ascontiguousarray(found["pixel_values"][0, :, 0].numpy())


def opened(cell: Any, side: int | None = None) -> Any:
    """An RGB picture of Pillow, from a cell or one that is open already.

    side: how many pixels the shorter side of a cell's picture may have at most; all by default.

    Raises:
        DataError: it can't be read.
    """
    from hfadapt.data.images import PictureError, open_picture, open_small

    if not isinstance(cell, Mapping):
        return cell
    try:
        return open_small(cell, side) if side else open_picture(cell)
    except PictureError as error:
        raise DataError(Problem(where=str(cell.get("path") or ""), says=str(error))) from error


def mixed(
    augment: Augment, rows: list[Encoded], others: list[Encoded], draws: Sequence[np.random.Generator], labels: Labels
) -> list[Encoded]:
    """Rows mixed with others by mixup or CutMix; their targets become shares of each label, (labels,)."""
    import numpy as np

    from hfadapt.data.augmenting import mix

    ways: tuple[tuple[Literal["mixup", "cutmix"], float], ...] = (("mixup", augment.mixup), ("cutmix", augment.cutmix))
    kinds, made = [(kind, alpha) for kind, alpha in ways if alpha], []
    for row, other, draw in zip(rows, others, draws, strict=True):
        kind, alpha = kinds[int(draw.integers(len(kinds)))]
        picture, share = mix(kind, alpha, row["pixel_values"], other["pixel_values"], draw)
        both = [_shares(one["labels"], labels) for one in (row, other)]
        made.append(row | {"pixel_values": picture, "labels": np.float32(share * both[0] + (1 - share) * both[1])})
    return made


def _shares(target: Any, labels: Labels) -> np.ndarray:
    import numpy as np

    return np.eye(len(labels))[target] if labels.kind == "label" else np.asarray(target, float)


@cache
def _augmenter(augment: Augment, size: tuple[int, int]) -> Augmenter:
    from hfadapt.data.augmenting import Augmenter

    return Augmenter(augment, size)


def stack(rows: list[Encoded]) -> dict[str, Any]:
    """Encoded rows to one batch; all are of one size."""
    import numpy as np
    import torch

    batch: dict[str, Any] = {"pixel_values": torch.from_numpy(np.stack([row["pixel_values"] for row in rows]))}
    if "labels" in rows[0]:
        targets = torch.from_numpy(np.stack([np.asarray(row["labels"]) for row in rows]))
        batch["labels"] = targets.float() if targets.is_floating_point() else targets
    return batch


def checked_templates(values: list[str]) -> list[str]:
    """Templates with one place for a name each; a pydantic error for others."""
    for value in values:
        if value.count("{}") != 1 or "{" in value.replace("{}", "") or "}" in value.replace("{}", ""):
            says = "'{template}' is no template: it needs '{{}}', once, where the name goes."
            raise PydanticCustomError("refused", "{says}", {"says": says.format(template=value)})
    return values
