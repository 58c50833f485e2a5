"""Pictures and texts that belong together, by two towers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, PrivateAttr, field_validator
from pydantic_core import PydanticCustomError

from hfadapt.data.prompts import Captions, Prompts, prompt
from hfadapt.errors import HfadaptError, Problem
from hfadapt.kind import IGNORED, Kind
from hfadapt.tasks import _pictures
from hfadapt.tasks.base import Columns, Encoded, Role

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn
    from transformers import PreTrainedConfig

    from hfadapt.backbones.base import Source
    from hfadapt.data.labels import Labels
    from hfadapt.data.loading import Loaded

HIGHEST_SCALE = math.log(100)
"""Where CLIP's logit scale is clamped (Radford et al. 2021, section 2.5)."""


class ImageTextContrastive(_pictures.PictureTask):
    """Bring pictures and their texts together, and keep others apart, with CLIP's or SigLIP's two towers.

    When to use: pictures with captions, for search either way or for zero-shot classification; pictures with
    classes, to fine-tune a zero-shot classifier as it was pretrained (FLYP; Goyal et al. 2022,
    https://arxiv.org/abs/2212.00638): the captions are then the `templates` around the names of the classes.
    Inputs: `image`, a path or a picture; `text`, a caption or a list of them; perhaps `label`, the class by
    which zero-shot classification is judged. Without texts, `label` makes them. The loss is CLIP's symmetric
    cross-entropy (Radford et al. 2021, https://arxiv.org/abs/2103.00020), or SigLIP's (Zhai et al. 2023,
    https://arxiv.org/abs/2303.15343) where the backbone has a logit bias, over the batches of all processes.
    Rows with the same picture or the same text are no negatives of each other, so neither are rows of one
    class; in FLYP's paper they are.
    """

    modality: ClassVar = "image-text"
    auto_class: ClassVar[str] = "AutoModelForZeroShotImageClassification"
    pipeline: ClassVar[str] = "zero-shot-image-classification"
    reads: ClassVar[tuple[str, ...]] = ("image_embeds", "text_embeds")
    parameters: ClassVar[tuple[str, ...]] = ("logit_scale", "logit_bias")
    contrasts: ClassVar[bool] = True
    roles: ClassVar[dict[str, Role]] = {
        "image": Role("image", "The picture.", ("image", "img", "picture", "photo", "file_name", "file", "path")),
        "text": Role(
            "text", "Its caption, or a list of captions.", ("text", "caption", "captions", "sentence", "title")
        ),
        "label": Role(
            "target",
            "The class for zero-shot scores, and for captions where there are none.",
            ("label", "labels", "target", "class", "category"),
            optional=True,
        ),
    }
    examples: ClassVar[tuple[dict[str, Any], ...]] = (
        {"image": "circle.png", "text": "a round thing"},
        {"image": "square.png", "text": "a thing with four corners"},
        {"image": "ring.png", "text": "a circle with a hole"},
        {"image": "star.png", "text": "five points around a centre"},
    )

    max_length: Annotated[int, Field(ge=4)] | None = None
    """The most tokens of a text; longer ones are cut at the end. By default what the backbone takes."""
    templates: Annotated[list[str], Field(min_length=1)] = Field(default=["a photo of a {}."])
    """The sentences around a class's name by which zero-shot classification asks for it. Where captions are made
    of the classes, one is drawn on each visit to a training row, and the first stands in evaluation."""
    captions: Captions | None = None
    """Whether captions are `given` or made of the `classes`; by default made where no column is named like a text
    and one holds labels."""
    new_classes: Annotated[float, Field(gt=0, lt=1)] | Annotated[list[str], Field(min_length=1)] | None = None
    """The classes to leave out of training and validation, by name or as the share of all that is the last in
    their order. The test rows are then judged base classes among base and new among new, as by Zhou et al. 2022
    (https://arxiv.org/abs/2203.05557)."""

    _prompted: bool = PrivateAttr(False)
    _new: tuple[str, ...] = PrivateAttr(())

    @field_validator("templates")
    @classmethod
    def _with_a_place(cls, values: list[str]) -> list[str]:
        return _pictures.checked_templates(values)

    @property
    def prompts(self) -> Prompts:
        """What captions and classes depend on."""
        new = tuple(self.new_classes) if isinstance(self.new_classes, list) else self.new_classes
        return Prompts(tuple(self.templates), self.captions, new)

    def settled(self, data: Loaded) -> ImageTextContrastive:
        """With what the columns decided about captions, and the names of the new classes."""
        made = self.model_copy()
        made._prompted, made._new = data.prompted, data.new
        return made

    @property
    def prompted(self) -> bool:
        """Whether the captions are made of the classes; known once the task is settled."""
        return self._prompted

    @property
    def new(self) -> tuple[str, ...]:
        """The names of the new classes; known once the task is settled."""
        return self._new

    @property
    def varies(self) -> bool:
        """Whether the training pictures are augmented, or one of several templates is drawn."""
        return self.augments or self.draws_texts

    @property
    def draws_texts(self) -> bool:
        """Whether one of several templates is drawn."""
        return self.prompted and len(self.templates) > 1

    def vary(self, rows: Columns, processor: Any, draws: Sequence[np.random.Generator]) -> Columns:
        """The rows with augmented pictures, and with drawn templates where the captions are made of the classes."""
        return self._prompts(super().vary(rows, processor, draws) if self.augments else rows, draws)

    def begin_to_vary(
        self, rows: Columns, processor: Any, draws: Sequence[np.random.Generator]
    ) -> tuple[Columns, list[int]]:
        """The same, up to where kornia has its turn."""
        begun, seeds = super().begin_to_vary(rows, processor, draws)
        return self._prompts(begun, draws), seeds

    def _prompts(self, rows: Columns, draws: Sequence[np.random.Generator]) -> Columns:
        """The rows with drawn templates where the captions are made of the classes."""
        if not self.prompted or "text" not in rows:
            return rows
        before, _, after = self.templates[0].partition("{}")
        names = [text.removeprefix(before).removesuffix(after) for text in rows["text"]]
        drawn = [self.templates[int(draw.integers(len(self.templates)))] for draw in draws]
        return {**rows, "text": [prompt(template, name) for template, name in zip(drawn, names, strict=True)]}

    @field_validator("augment")
    @classmethod
    def _not_mixed(cls, value: _pictures.Augment) -> _pictures.Augment:
        if value.mixup or value.cutmix:
            raise PydanticCustomError("refused", "Pictures with texts are not mixed: no text belongs to a mixture.")
        return value

    def kind(self, target: Sequence[Any], separator: str | None) -> Kind:
        """Always pairs."""
        return "pairs"

    def score(self, kind: Kind) -> str:
        """The mean of recall@1 from pictures to texts and back; of captions made of classes, how well classes are told.

        With new classes those of validation are the base ones, and only they are asked for.
        """
        if not self.prompted:
            return "recall@1"
        return "base_accuracy" if self.new else "zero_shot_accuracy"

    def configure(self, config: PreTrainedConfig, labels: Labels) -> None:
        """Nothing: the classes are no part of the model."""

    def processor(self, source: Source, config: PreTrainedConfig) -> Any:
        """The checkpoint's image processor and tokenizer.

        Raises:
            HfadaptError: it lacks one of them, or does not have two towers.
        """
        from transformers import AutoProcessor

        processor: Any = None
        cause: Exception | None = None
        try:
            processor = AutoProcessor.from_pretrained(source.path, **source.options)
        except (OSError, ValueError, KeyError, ImportError) as error:
            cause = error
        if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
            says = f"'{source.name}' has no processor for pictures and texts that transformers can load."
            raise HfadaptError(Problem(says, "model", hint="Use a CLIP or SigLIP checkpoint.")) from cause
        _pictures.check_size(processor, source)
        positions = config.text_config.max_position_embeddings
        most = min(processor.tokenizer.model_max_length, positions)
        if self.max_length and "attention_mask" not in processor.tokenizer.model_input_names:
            says = f"The texts of '{source.name}' have one length, {most} tokens; another would change its answers."
            raise HfadaptError(Problem(says, "task.max_length", hint="Remove it."))
        if self.max_length and self.max_length > most:
            says = f"{self.max_length} is more than the {most} tokens that '{source.name}' takes."
            raise HfadaptError(Problem(says, "task.max_length"))
        processor.tokenizer.model_max_length = self.max_length or most
        return processor

    def lengths(self, rows: Columns, processor: Any) -> list[int]:
        """The number of tokens of each text."""
        encoded = processor.tokenizer(list(rows["text"]), truncation=False, verbose=False)
        return [len(ids) for ids in encoded["input_ids"]]

    def limit(self, processor: Any) -> int:
        """The most tokens of a text."""
        return int(processor.tokenizer.model_max_length)

    def encode(self, rows: Columns, processor: Any) -> dict[str, list[Any]]:
        """`pixel_values`, (3, height, width), and the tokens of the text."""
        pixels = _pictures.pixels(rows["image"], processor, cropped=bool(self.augment.crop))
        return {"pixel_values": pixels, **tokens(rows["text"], processor.tokenizer)}

    @property
    def shown(self) -> dict[str, Role]:
        """The columns that it reads to answer with a class: the picture alone."""
        return {role: its for role, its in self.roles.items() if its.holds == "image"}

    def collator(self, processor: Any) -> Callable[[list[Encoded]], dict[str, Any]]:
        """Stacks the pictures and pads the texts of a batch."""
        return _Collate(processor.tokenizer)

    def weights(self, targets: np.ndarray, labels: Labels) -> None:
        """None: each pair counts the same."""

    def losses(
        self,
        found: Mapping[str, Tensor],
        targets: Tensor,
        kind: Kind,
        weights: Tensor | None = None,
        smoothing: float = 0.0,
        *,
        whole: tuple[Mapping[str, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """The loss of each row's picture and of its text, (rows, 2), 0 where a row is ignored.

        found: `image_embeds` and `text_embeds`, (rows, dimensions), of unit length; `logit_scale`, the logarithm
        of the factor on their cosines; SigLIP's `logit_bias`. targets: (rows, 2), ids of pictures and texts.
        """
        import torch

        everyone, ids = whole or (found, targets)
        alike = (targets[:, None] == ids).any(-1) | (ids == IGNORED).any(-1)
        scale, bias = found["logit_scale"].float().exp(), found.get("logit_bias")
        image, text = found["image_embeds"].float(), found["text_embeds"].float()

        def logits(cosines: Tensor) -> Tensor:
            return cosines * scale + (0 if bias is None else bias)

        positive = logits((image * text).sum(-1))
        items = []
        for ours, others in ((image, "text_embeds"), (text, "image_embeds")):
            against = logits(ours @ everyone[others].float().T).masked_fill(alike, -torch.inf)
            if bias is None:
                items.append(torch.logsumexp(torch.cat([positive[:, None], against], 1), 1) - positive)
            else:
                items.append(_softplus(-positive) + _softplus(against).sum(1))
        return torch.where(targets == IGNORED, 0.0, torch.stack(items, -1))

    def constrain(self, model: nn.Module) -> None:
        """Clamp CLIP's logit scale; SigLIP's is free."""
        import torch

        if getattr(model, "logit_bias", None) is None:
            with torch.no_grad():
                model.logit_scale.clamp_(max=HIGHEST_SCALE)  # type: ignore[union-attr,operator]

    def predictions(self, found: Mapping[str, np.ndarray], kind: Kind) -> Mapping[str, np.ndarray]:
        """The embeddings of both towers."""
        return found

    def answers(self, found: Mapping[str, np.ndarray], labels: Labels) -> list[dict[str, Any]]:
        """`similarity`: the cosine between each row's picture and its text."""
        cosines = (found["image_embeds"] * found["text_embeds"]).sum(-1)
        return [{"similarity": float(value)} for value in cosines]


def told(chances: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """What a person wants to read of pictures that were asked for their class; chances: (rows, classes)."""
    best = chances.argmax(-1)
    return [
        {
            "label": names[i],
            "probability": float(row[i]),
            "probabilities": dict(zip(names, row.tolist(), strict=True)),
        }
        for i, row in zip(best, chances, strict=True)
    ]


def tokens(texts: Sequence[str], tokenizer: Any) -> dict[str, list[list[int]]]:
    """The tokens of texts, cut to what the model takes, and padded only where the model must see padding.

    A tokenizer that gives no attention mask is that of such a model (SigLIP): its texts have one length.
    """
    padded = "attention_mask" not in tokenizer.model_input_names
    return dict(tokenizer(list(texts), truncation=True, padding="max_length" if padded else False))


def _softplus(values: Tensor) -> Tensor:
    from torch.nn import functional

    return functional.softplus(values)


class _Collate:
    """A class rather than a closure, so that worker processes that are spawned can pickle it."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer

    def __call__(self, rows: list[Encoded]) -> dict[str, Any]:
        batch = _pictures.stack(rows)
        texts = [{k: v for k, v in row.items() if k not in ("pixel_values", "labels")} for row in rows]
        return batch | dict(self.tokenizer.pad(texts, padding="longest", return_tensors="pt"))
