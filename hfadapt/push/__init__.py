"""The section of a recipe that says where its run goes on the Hub."""

from __future__ import annotations

import re

from pydantic import ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from hfadapt.section import Section

_REF = re.compile(r"(?!refs/)[A-Za-z0-9_](?:[\w./-]*[A-Za-z0-9_])?")


class Push(Section):
    """A repository of the Hub that receives model, card and recipe once the run is done."""

    repo: str
    """`owner/name`, or a name below the user that the token belongs to."""
    private: bool = True
    """Whether only its owners see it. Where this asks for a private one and there is a public one, nothing is sent;
    one that is private already stays so."""
    branch: str | None = None
    """The branch that receives the commit, made where it is missing; the main one by default."""
    tag: str | None = None
    """A tag for the commit."""
    pull_request: bool = False
    """Open a pull request instead of committing."""

    @property
    def told(self) -> str:
        """For a person: `me/name (private), branch try`."""
        parts = [f"{self.repo} ({'private' if self.private else 'public'})"]
        parts += [f"{name} {value}" for name in ("branch", "tag") if (value := getattr(self, name))]
        return ", ".join([*parts, *(["as a pull request"] if self.pull_request else [])])

    @field_validator("repo")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

        try:
            validate_repo_id(value)
        except HFValidationError:
            says = f"'{value}' is no name of a repository: OWNER/NAME, or NAME, of letters, digits, '-', '_' and '.'."
            raise _refused(says) from None
        return value

    @field_validator("branch", "tag")
    @classmethod
    def _is_a_ref(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and not _REF.fullmatch(value):
            raise _refused(f"'{value}' is no name of a {info.field_name}.")
        return value

    @field_validator("pull_request")
    @classmethod
    def _goes_alone(cls, value: bool, info: ValidationInfo) -> bool:
        for other in ("branch", "tag"):
            if value and info.data.get(other):
                raise _refused(f"A pull request has no {other} of its own; leave out one of the two.")
        return value


def _refused(says: str) -> PydanticCustomError:
    return PydanticCustomError("refused", "{says}", {"says": says})
