"""A picture to one label or several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from hfadapt.tasks import _pictures
from hfadapt.tasks._classification import Classification
from hfadapt.tasks.base import Columns, Encoded, Role

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedConfig

    from hfadapt.backbones.base import Source
    from hfadapt.data.labels import Labels


class ImageClassification(_pictures.PictureTask, Classification):
    """Classify pictures: what is in them, of which kind or state it is.

    When to use: each row has a picture and what is to be said of it.
    Inputs: `image`, a path or a picture, and `label`: a word or an integer (single-label) or a list of words
    (multi-label). A folder with a sub-folder for each class needs no columns.
    """

    modality: ClassVar = "image"
    auto_class: ClassVar[str] = "AutoModelForImageClassification"
    pipeline: ClassVar[str] = "image-classification"
    roles: ClassVar[dict[str, Role]] = {
        "image": Role("image", "The picture.", ("image", "img", "picture", "photo", "file_name", "file", "path")),
        "label": Role("target", "What is to be said of it.", ("label", "labels", "target", "class", "category")),
    }
    examples: ClassVar[tuple[dict[str, Any], ...]] = (
        {"image": "circle.png", "label": "round"},
        {"image": "square.png", "label": "angular"},
        {"image": "ring.png", "label": "round"},
        {"image": "star.png", "label": "angular"},
    )

    head: Literal["new", "zero-shot", "tip-adapter"] = "new"
    """Where the head starts: at random, or, with a backbone that knows texts too (CLIP, SigLIP), from the
    names of the classes, or from these and a memory of some training pictures (Zhang et al. 2022,
    https://arxiv.org/abs/2207.09519). The head is a linear layer in any case: it is fitted to what the names,
    or Tip-Adapter, answer of the training pictures, and keeps of it what is linear in the tower's features. Of a
    memory that may be next to nothing before training; what Tip-Adapter itself scores is among the baselines."""
    shots: Annotated[int, Field(ge=1)] = 16
    """The most training pictures of a class that `tip-adapter` remembers, drawn by the seed."""
    templates: Annotated[list[str], Field(min_length=1)] = Field(default=["a photo of a {}."])
    """The sentences around a class's name by which a backbone that knows texts is asked for it."""

    @field_validator("problem_type")
    @classmethod
    def _no_numbers(cls, value: str | None) -> str | None:
        if value == "regression":
            raise PydanticCustomError("refused", "Pictures are classified; a regression on them is not offered.")
        return value

    @field_validator("templates")
    @classmethod
    def _with_a_place(cls, values: list[str]) -> list[str]:
        return _pictures.checked_templates(values)

    @model_validator(mode="after")
    def _shots_of_a_memory(self) -> ImageClassification:
        if "shots" in self.model_fields_set and self.head != "tip-adapter":
            raise PydanticCustomError("refused", "'shots' goes with `head: tip-adapter` only.")
        return self

    def configure(self, config: PreTrainedConfig, labels: Labels) -> None:
        """Also under the name by which a configuration of timm's models keeps its labels."""
        super().configure(config, labels)
        if hasattr(config, "label_names"):
            config.label_names = list(config.id2label.values())

    @property
    def mixes(self) -> bool:
        """Whether mixup or CutMix is asked for."""
        return bool(self.augment.mixup or self.augment.cutmix)

    def mix(
        self, rows: list[Encoded], others: list[Encoded], draws: Sequence[np.random.Generator], labels: Labels
    ) -> list[Encoded]:
        """Each row mixed with the other one, its target the share of each label."""
        return _pictures.mixed(self.augment, rows, others, draws, labels)

    def processor(self, source: Source, config: PreTrainedConfig) -> Any:
        """The checkpoint's image processor."""
        return _pictures.image_processor(source)

    def encode(self, rows: Columns, processor: Any) -> dict[str, list[Any]]:
        """`pixel_values` of each row, (3, height, width)."""
        return {"pixel_values": _pictures.pixels(rows["image"], processor, cropped=bool(self.augment.crop))}

    def collator(self, processor: Any) -> Callable[[list[Encoded]], dict[str, Any]]:
        """Stacks the rows of a batch."""
        return _pictures.stack
