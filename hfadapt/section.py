"""The base of every section of a recipe: frozen, strict, documented where it is declared."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer, model_validator
from pydantic.fields import FieldInfo


class Section(BaseModel):
    """A part of a recipe. Unknown keys are refused; a docstring below a field is its help."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _empty_is_absent(cls, values: Any) -> Any:
        """A section inside this one with every line of it commented out is left at its default."""
        if not isinstance(values, dict):
            return values
        inner = {name for name, field in cls.model_fields.items() if _is_section(field)}
        return {key: value for key, value in values.items() if value is not None or key not in inner}


def _is_section(field: FieldInfo) -> bool:
    # A default that is written short, such as the name of a method, is made into its section by validation.
    default = field.get_default(call_default_factory=True, validated_data={})
    return bool(field.validate_default) or isinstance(default, Section | dict | list)


class Variant(Section):
    """A section of which there are several kinds, told apart by the value of one key.

    `adapt: lora` and `adapt: {method: lora}` are the same. The name of a kind is the name of its
    file in kebab-case; `discover` finds it there and nowhere else.
    """

    tag: ClassVar[str]
    """The key that names the kind."""
    name: ClassVar[str] = ""
    """The value of that key; set by `discover` from the file's name."""
    implied_by: ClassVar[str] = ""
    """An option that tells the kind by itself, so that the tag may be left out."""

    @model_serializer(mode="wrap")
    def _short(self, handler: SerializerFunctionWrapHandler) -> Any:
        values = handler(self)
        return {self.tag: self.name, **values} if values else self.name
