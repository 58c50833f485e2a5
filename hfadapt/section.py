"""The base of every section of a recipe: frozen, strict, documented where it is declared."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


class Section(BaseModel):
    """A part of a recipe. Unknown keys are refused; a docstring below a field is its help."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class Variant(Section):
    """A section of which there are several kinds, told apart by the value of one key.

    `adapt: lora` and `adapt: {method: lora}` are the same. The name of a kind is the name of its
    file in kebab-case; `discover` finds it there and nowhere else.
    """

    tag: ClassVar[str]
    """The key that names the kind."""
    name: ClassVar[str] = ""
    """The value of that key; set by `discover` from the file's name."""

    @model_serializer(mode="wrap")
    def _short(self, handler: SerializerFunctionWrapHandler) -> Any:
        values = handler(self)
        return {self.tag: self.name, **values} if values else self.name
