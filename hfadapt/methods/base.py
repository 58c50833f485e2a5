"""The contract of an adaptation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from hfadapt.section import Variant

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedConfig

    from hfadapt.backbones.base import Anatomy, Source


@dataclass(frozen=True)
class Stage:
    """A stretch of the training in which the same parameters move."""

    name: str
    speeds: Mapping[str, float]
    """The parameters that move, each with its factor on the learning rate."""
    share: float = 1.0
    """The part of all training steps that this stage takes; the shares of a run sum to 1."""
    learning_rate: float | None = None
    """That of the recipe where the stage has none of its own."""


@dataclass(frozen=True)
class Surroundings:
    """What a method may know of the run around it."""

    task: Any
    """The recipe's task; methods know no task by name."""
    source: Source
    config: PreTrainedConfig
    processor: Any
    labels: Any
    """`data.labels.Labels`: `kind`, `names`."""
    trust_remote_code: bool = False


class Term(Protocol):
    """What a method adds to the loss of a batch."""

    def __call__(self, inputs: Mapping[str, Tensor], outputs: Any) -> Tensor:
        """A value for each row, (rows,), of which the mean over the rows is added; or one for the batch, ().

        inputs: what the model was called with; outputs: what it answered.
        """


class Companion:
    """What goes along with the training, step by step. Its state lies in the checkpoints, so that it is resumed.

    The model that it is given is the wrapped one, never that of DistributedDataParallel.
    """

    def began(self, model: nn.Module, stage: Stage, steps: int) -> None:
        """A stage of some steps begins, before any checkpoint of it is read."""

    def stepped(self, model: nn.Module, step: int) -> None:
        """The optimizer has made a step of the stage, counted from 1; the gradients are still there."""

    def evaluated(self, model: nn.Module, stage: Stage, step: int, score: float, folder: Path) -> None:
        """The model was judged at a step of a stage; the score is better the greater it is.

        folder: where a companion may keep files until the run ends; made by whoever writes first.
        """

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold of this companion; called on every process, saved by the first."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint, after `began`."""

    def ended(self, model: nn.Module) -> None:
        """A stage has ended: last changes to the model."""

    def refine(self, model: nn.Module, score: Callable[[], float], folder: Path) -> list[dict[str, float]]:
        """After all stages: choose weights by the score of the model on the validation rows, greater is better.

        Called on every process, and every process must end with the same weights. Returns what was tried, a row
        each, for scores.json and the model card; nothing where nothing was.
        """
        return []


class Adaptation(Variant):
    """A way to adapt: which modules change, and what moves when and how fast.

    It returns descriptions; the engine acts on them. It never sees rows, devices or optimizers,
    and must not depend on the values of weights: planning calls it on a model without any.
    """

    tag: ClassVar[str] = "method"
    rate: ClassVar[float | None] = None
    """The learning rate where the recipe names none and a head is new, or the method inserts something; None leaves it
    to the method inside, and at last to upstream's default, which suits a body all of which moves."""
    divisible: ClassVar[bool] = True
    """Whether it works where FSDP or DeepSpeed divides the model among the processes."""
    evaluates: ClassVar[bool] = False
    """Whether it chooses by evaluations along the way."""
    copies: ClassVar[int] = 0
    """How many more models of the same size it holds while it trains."""
    passes: ClassVar[int] = 0
    """How many more forward passes without gradients a step takes."""

    @property
    def chain(self) -> Sequence[Adaptation]:
        """It, and the methods inside it."""
        return (self,)

    @property
    def scratch(self) -> bool:
        """Whether the checkpoint's weights are left aside."""
        return False

    @property
    def arguments(self) -> Mapping[str, Any]:
        """Training arguments that follow from the method; a recipe that sets them otherwise is refused."""
        return {}

    def prepare(self, around: Surroundings) -> None:
        """Change the processor or the configuration before a model is made, or refuse what does not fit.

        Raises:
            RecipeError: the method does not go with the task, the backbone or the labels.
        """

    def wrap(self, model: nn.Module, anatomy: Anatomy) -> nn.Module:
        """Change modules before training (insert adapters, say); by default none."""
        return model

    def stages(self, model: nn.Module, anatomy: Anatomy) -> Sequence[Stage]:
        """What trains when. `model` is what `wrap` returned; `anatomy` is that of the model before."""
        raise TypeError(f"{type(self).__name__} defines no stages")

    def check_steps(self, steps: Sequence[int]) -> None:
        """Refuse, while planning, a number of steps of its stages that it cannot work with.

        Raises:
            HfadaptError: they are too few.
        """

    def terms(self, model: nn.Module, anatomy: Anatomy, around: Surroundings) -> Sequence[Term]:
        """What is added to the loss; `model` is the wrapped one with the weights that training starts from."""
        return ()

    def companions(self, model: nn.Module, anatomy: Anatomy, around: Surroundings) -> Sequence[Companion]:
        """What goes along with the training; `model` as for `terms`."""
        return ()

    def keep(self, model: nn.Module, folder: Path) -> None:
        """Save into the run folder what besides the plain model is worth keeping; by default nothing."""

    def finish(self, model: nn.Module) -> nn.Module:
        """Undo `wrap` after training: what is returned is plain transformers."""
        return model
