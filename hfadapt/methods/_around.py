"""What all methods share that go around another one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, SerializeAsAny, WithJsonSchema

from hfadapt.discover import one_of
from hfadapt.errors import HfadaptError, Problem, RecipeError
from hfadapt.methods.base import Adaptation, Companion, Stage, Surroundings, Term

if TYPE_CHECKING:
    from torch import nn

    from hfadapt.backbones.base import Anatomy

    Inner = Adaptation
else:
    Inner = Annotated[
        SerializeAsAny[Adaptation],
        one_of("hfadapt.methods", Adaptation, "method"),
        WithJsonSchema({"type": ["string", "object"]}),
    ]


class Around(Adaptation):
    """A method that adds something to another one, which says what moves."""

    inner: Inner = Field(default="full", validate_default=True)
    """What moves when: the name of another method, or a mapping with its `method` and options."""

    @property
    def chain(self) -> Sequence[Adaptation]:
        """It, and the methods inside it."""
        return (self, *self.inner.chain)

    @property
    def scratch(self) -> bool:
        """As the inner method."""
        return self.inner.scratch

    @property
    def arguments(self) -> Mapping[str, Any]:
        """Those of the inner method."""
        return self.inner.arguments

    def prepare(self, around: Surroundings) -> None:
        """As the inner method."""
        with _inside():
            self.inner.prepare(around)

    def wrap(self, model: nn.Module, anatomy: Anatomy) -> nn.Module:
        """As the inner method."""
        with _inside():
            return self.inner.wrap(model, anatomy)

    def stages(self, model: nn.Module, anatomy: Anatomy) -> Sequence[Stage]:
        """Those of the inner method."""
        with _inside():
            return self.inner.stages(model, anatomy)

    def terms(self, model: nn.Module, anatomy: Anatomy, around: Surroundings) -> Sequence[Term]:
        """Those of the inner method."""
        return self.inner.terms(model, anatomy, around)

    def companions(self, model: nn.Module, anatomy: Anatomy, around: Surroundings) -> Sequence[Companion]:
        """Those of the inner method."""
        return self.inner.companions(model, anatomy, around)

    def keep(self, model: nn.Module, folder: Path) -> None:
        """As the inner method."""
        self.inner.keep(model, folder)

    def finish(self, model: nn.Module) -> nn.Module:
        """As the inner method."""
        return self.inner.finish(model)


class Near(Around):
    """A method that goes back to, or holds on to, what the training began with."""

    def prepare(self, around: Surroundings) -> None:
        """Refuse weights that begin at random."""
        super().prepare(around)
        if self.scratch:
            says = (
                f"The method '{self.inner.name}' leaves the checkpoint's weights aside: nothing is worth going back to."
            )
            raise RecipeError(Problem(says, "adapt.inner"))


@contextmanager
def _inside() -> Iterator[None]:
    """Have what the inner method complains of told of `adapt.inner`."""
    try:
        yield
    except HfadaptError as error:
        problems = (
            replace(p, field=f"adapt.inner{p.field[5:]}") if p.field[:5] == "adapt" else p for p in error.problems
        )
        raise type(error)(*problems) from error
