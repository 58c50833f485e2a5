"""The anatomy of a model: which parameters are embeddings, blocks, what follows them, and head."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hfadapt import discover
from hfadapt.errors import HfadaptError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Family:
    """What the derivation of the anatomy gets wrong for a kind of backbone, and a size for tests."""

    model_types: tuple[str, ...]
    """The `model_type`s of the configurations that it speaks of."""
    tiny: Mapping[str, Any]
    """Arguments that make its configuration small enough for a test."""
    positions_offset: int = 0
    """How many of its position embeddings no token can have."""
    embeddings: tuple[str, ...] = ()
    """Modules of the body, relative to it, that feed the blocks but are registered after them."""


@dataclass(frozen=True)
class Source:
    """Where a backbone's files are: the same bytes wherever they were found."""

    name: str
    """As the recipe writes it; what a model card may say."""
    path: str
    """What `from_pretrained` is given: a folder, or an id on the Hub."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """`revision` and `trust_remote_code`, as `from_pretrained` takes them."""
    local: bool = True
    """Whether the files are on this machine, so that looking into them costs no download."""


@dataclass(frozen=True)
class Part:
    """A stretch of the model, from the input to the output."""

    name: str
    """`embeddings`, `blocks[3]`, `after` (what lies between blocks and head), `head`."""
    parameters: tuple[str, ...]


@dataclass(frozen=True)
class Anatomy:
    """The parts of a model in the order in which the data flow through them.

    The head is what the task added: every parameter outside the body, and every parameter of the
    body that the checkpoint does not hold (a new pooler, say), since it starts at random too.
    """

    embeddings: Part
    blocks: tuple[Part, ...]
    after: tuple[str, ...]
    head: tuple[str, ...]
    block_modules: tuple[str, ...] = field(repr=False, default=())
    """The name of each block's module."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """All parts that hold parameters, from the input to the output."""
        every = (self.embeddings, *self.blocks, Part("after", self.after), Part("head", self.head))
        return tuple(part for part in every if part.parameters)

    @property
    def everything(self) -> tuple[str, ...]:
        """The names of all parameters."""
        return tuple(name for part in self.parts for name in part.parameters)

    def part_of(self, parameter: str) -> str:
        """The part that a parameter belongs to, also one that an adapter has put into a module."""
        name = parameter.removeprefix("base_model.model.")
        for module, block in zip(self.block_modules, self.blocks, strict=True):
            if name.startswith(module + "."):
                return block.name
        words = name.split(".")
        return max(self.parts, key=lambda part: max(_shared(words, p.split(".")) for p in part.parameters)).name

    def head_modules(self) -> list[str]:
        """The innermost modules that own the head's parameters."""
        return sorted({name.rpartition(".")[0] for name in self.head})

    def linear_layers(self, model: nn.Module) -> list[str]:
        """The names of the linear layers inside the blocks."""
        from torch import nn
        from transformers.pytorch_utils import Conv1D

        return [
            f"{block}.{name}"
            for block in self.block_modules
            for name, module in model.get_submodule(block).named_modules()
            if isinstance(module, nn.Linear | Conv1D)
        ]


def anatomy(model: nn.Module, new: Collection[str] = ()) -> Anatomy:
    """The anatomy of a transformers model with a head.

    new: the parameters that the checkpoint does not hold, as `from_pretrained` reports them.

    Raises:
        HfadaptError: the model has no blocks that could be told apart.
    """
    family = family_of(model.config.model_type)  # type: ignore[union-attr,arg-type]
    prefix = model.base_model_prefix if hasattr(model, model.base_model_prefix) else ""  # type: ignore[arg-type]
    body: nn.Module = getattr(model, prefix) if prefix else model  # type: ignore[arg-type]
    dot = f"{prefix}." if prefix else ""
    modules = [f"{dot}{name}" for name in _block_modules(body)]
    if not modules:
        raise HfadaptError(f"No blocks were found in {type(model).__name__}: it has no list of layers.")
    early = tuple(f"{dot}{name}." for name in family.embeddings) if family else ()
    blocks: dict[str, list[str]] = {name: [] for name in modules}
    embeddings, after, head = [], [], []
    for name, _ in model.named_parameters():
        block = next((m for m in modules if name.startswith(m + ".")), None)
        if block:
            blocks[block].append(name)
        elif name in new or not name.startswith(dot):
            head.append(name)
        elif name.startswith(early) if early else False:
            embeddings.append(name)
        elif any(blocks.values()):
            after.append(name)
        else:
            embeddings.append(name)
    return Anatomy(
        Part("embeddings", tuple(embeddings)),
        tuple(Part(f"blocks[{i}]", tuple(names)) for i, names in enumerate(blocks.values())),
        tuple(after),
        tuple(head),
        tuple(modules),
    )


def family_of(model_type: str) -> Family | None:
    """The family that speaks of a configuration's `model_type`, if any does."""
    families: Mapping[str, Family] = discover.facts("hfadapt.backbones", Family)
    return next((f for f in families.values() if model_type in f.model_types), None)


def _block_modules(body: nn.Module) -> Iterator[str]:
    """The children of the outermost lists of modules: the blocks of nearly every model in transformers."""
    from torch import nn

    outer: list[str] = []
    for name, module in body.named_modules():
        if isinstance(module, nn.ModuleList) and not name.startswith(tuple(o + "." for o in outer)):
            outer.append(name)
            yield from (f"{name}.{i}" for i, child in enumerate(module) if any(True for _ in child.parameters()))


def _shared(one: list[str], other: list[str]) -> int:
    """How many leading words two dotted names share."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
