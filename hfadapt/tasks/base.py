"""The contract of a task."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from hfadapt.kind import Kind
from hfadapt.section import Variant

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn
    from transformers import PreTrainedConfig, PreTrainedModel

    from hfadapt.backbones.base import Source
    from hfadapt.data.labels import Labels
    from hfadapt.data.loading import Loaded
    from hfadapt.data.prompts import Prompts


Columns = Mapping[str, Sequence[Any]]
"""Rows as columns: name → one value a row."""
Encoded = dict[str, Any]
"""A row as model inputs, with `labels` where its target is known."""


@dataclass(frozen=True)
class Role:
    """A column that a task reads."""

    holds: Literal["text", "image", "target"]
    """A text or a picture to encode, or what is to be predicted."""
    help: str
    guesses: tuple[str, ...] = ()
    """Usual names of such a column, most telling first; used where the recipe names none."""
    optional: bool = False
    """Whether the task does without; such a column is never guessed."""


class Task(Variant):
    """What is learnt from which columns, by which head and loss, and how it is judged.

    A task owns meaning. It knows nothing of devices, processes, checkpoints or schedules.
    """

    tag: ClassVar[str] = "type"
    modality: ClassVar[Literal["text", "image", "image-text"]]
    """What the inputs are; chooses the processor and the cheap baselines."""
    auto_class: ClassVar[str]
    """The transformers Auto class whose checkpoints this task leaves."""
    pipeline: ClassVar[str]
    """The transformers pipeline that runs them."""
    roles: ClassVar[dict[str, Role]]
    """The columns it reads, by the name that the recipe gives them under `data`."""
    examples: ClassVar[tuple[dict[str, Any], ...]]
    """Four literal rows, for documentation and for the conformance tests."""
    lazy: ClassVar[bool] = False
    """Whether a row is encoded each time it is visited; else all are before training."""
    reads: ClassVar[tuple[str, ...]] = ("logits",)
    """The outputs of the model that loss and metrics read."""
    parameters: ClassVar[tuple[str, ...]] = ()
    """Parameters at the root of the model that the loss reads too, where the model has them."""
    contrasts: ClassVar[bool] = False
    """Whether the loss of a row depends on all other rows of the batch, those of other processes included."""

    @property
    def varies(self) -> bool:
        """Whether a training row is another one in each epoch."""
        return False

    @property
    def mixes(self) -> bool:
        """Whether a training row is mixed with another one that is drawn for it."""
        return False

    @property
    def draws_texts(self) -> bool:
        """Whether the text of a training row is another one in each epoch."""
        return False

    @property
    def augments(self) -> bool:
        """Whether training pictures are changed at random."""
        return False

    def working_side(self, processor: Any) -> int | None:
        """The shorter side, in pixels, that a training picture has at most before it is varied.

        None where pictures are taken as they are.
        """
        return None

    @property
    def prompts(self) -> Prompts | None:
        """What reading the rows depends on where classes are asked for by their names; None elsewhere."""
        return None

    def settled(self, data: Loaded) -> Task:
        """The same task with what the recipe left to the data."""
        return self

    @abstractmethod
    def kind(self, target: Sequence[Any], separator: str | None) -> Kind:
        """What a row is answered with, given the first values of the target column."""

    @abstractmethod
    def score(self, kind: Kind) -> str:
        """The metric that picks the best checkpoint."""

    @abstractmethod
    def configure(self, config: PreTrainedConfig, labels: Labels) -> None:
        """Write the labels and the kind of problem into the checkpoint's configuration."""

    @abstractmethod
    def encode(self, rows: Columns, processor: Any) -> dict[str, list[Any]]:
        """A batch of rows, as columns by role, to model inputs, as columns; no padding."""

    @abstractmethod
    def collator(self, processor: Any) -> Any:
        """A function from encoded rows to one padded batch of tensors with `labels`."""

    def vary(self, rows: Columns, processor: Any, draws: Sequence[np.random.Generator]) -> Columns:
        """Rows changed at random, each by a generator of its own; asked of a task that `varies`."""
        return rows

    def mix(
        self, rows: list[Encoded], others: list[Encoded], draws: Sequence[np.random.Generator], labels: Labels
    ) -> list[Encoded]:
        """Each row mixed with the other one; `labels` become shares, (labels,). Asked of a task that `mixes`."""
        return rows

    @abstractmethod
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
        """The loss of each item, 0 where its target is ignored (-100).

        found: what the task `reads`, rows first (`logits`: (rows, labels)), and its `parameters`;
        targets: (rows,) or (rows, items);
        weights: (labels,); whole: found and targets of the batch of all processes, where the task `contrasts`;
        result: the shape of targets.
        """

    def constrain(self, model: nn.Module) -> None:
        """Put parameters back where they must lie; called after each optimizer step."""

    @abstractmethod
    def weights(self, targets: np.ndarray, labels: Labels) -> np.ndarray | None:
        """A factor for each label on the loss, (labels,), from the training targets; None for 1."""

    @abstractmethod
    def predictions(self, found: Mapping[str, np.ndarray], kind: Kind) -> Any:
        """What metrics read, from what the task `reads` of each row.

        `logits`: (rows, labels) → probabilities (rows, labels), or (rows,) for a number.
        """

    @abstractmethod
    def answers(self, found: Mapping[str, np.ndarray], labels: Labels) -> list[dict[str, Any]]:
        """What a person wants to read of each row, from what the task `reads`."""

    @abstractmethod
    def processor(self, source: Source, config: PreTrainedConfig) -> Any:
        """What turns rows into model inputs, set to this task's limits; saved beside the weights."""

    def lengths(self, rows: Columns, processor: Any) -> list[int] | None:
        """The length of each row before anything is cut, where what it costs to compute grows with it."""
        return None

    def limit(self, processor: Any) -> int:
        """The length that longer rows are cut to."""
        raise TypeError(f"{type(self).__name__} cuts nothing")

    def model(self, source: Source, config: PreTrainedConfig, **options: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
        """The checkpoint under the task's head, and transformers' account of what loading found."""
        import transformers

        return getattr(transformers, self.auto_class).from_pretrained(  # type: ignore[no-any-return]
            source.path,
            config=config,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            **source.options,
            **options,
        )

    def bare(self, config: PreTrainedConfig, **options: Any) -> PreTrainedModel:
        """The same model with no checkpoint read: random weights, or none under `torch.device("meta")`."""
        import transformers

        return getattr(transformers, self.auto_class).from_config(config, **options)  # type: ignore[no-any-return]
