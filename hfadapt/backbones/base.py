"""The anatomy of a model: its towers, each with embeddings, blocks and what follows them, and its head."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from hfadapt import discover
from hfadapt.errors import HfadaptError

if TYPE_CHECKING:
    from torch import nn


_KINDS = ("list", "compound", "plain")
"""Of lists of modules; see `_block_modules`."""


@dataclass(frozen=True)
class Family:
    """What the derivation of the anatomy gets wrong for a kind of backbone, and a size for tests."""

    model_types: tuple[str, ...]
    """The `model_type`s of the configurations that it speaks of."""
    tiny: Mapping[str, Any]
    """Arguments that make its configuration small enough for a test; `vision_config` and `text_config` nest."""
    modality: Literal["text", "image", "image-text"] = "text"
    """What it reads."""
    positions_offset: int = 0
    """How many of its position embeddings no token can have."""
    embeddings: tuple[str, ...] = ()
    """Modules of the body, relative to it, that feed the blocks but are registered after them."""
    head: tuple[str, ...] = ()
    """Modules inside the towers that project into the space which the towers share."""
    unused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By the name of a model's class: modules and parameters that its forward pass makes no use of."""
    fixed_length: bool = False
    """Whether its texts must be padded to the limit, because the text tower reads its last position."""


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
    """`embeddings`, `blocks[3]`, `after` (what lies between blocks and head), `head`, `unused`.

    Where there are two towers, those of a tower begin with its name: `vision.blocks[3]`.
    """
    parameters: tuple[str, ...]


@dataclass(frozen=True)
class Tower:
    """What turns one kind of input into features."""

    name: str
    """`vision` or `text` where a model has both; else empty."""
    embeddings: Part
    blocks: tuple[Part, ...]
    after: tuple[str, ...]
    block_modules: tuple[str, ...] = field(repr=False, default=())
    """The name of each block's module."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """Its parts from the input to the output, empty ones too."""
        return (self.embeddings, *self.blocks, Part(f"{self.name}.after".lstrip("."), self.after))


@dataclass(frozen=True)
class Anatomy:
    """The parts of a model in the order in which the data flow through them.

    The head is what the task added: every parameter outside the body, and every parameter of the
    body that the checkpoint does not hold (a new pooler, say), since it starts at random too. Of a
    model with two towers it is what brings their features together, though the checkpoint holds it.
    """

    towers: tuple[Tower, ...]
    head: tuple[str, ...]
    unused: tuple[str, ...] = ()
    """Parameters that the forward pass makes no use of. They never get a gradient, so none of them may move."""

    @property
    def embeddings(self) -> Part:
        """The embeddings of all towers."""
        return Part("embeddings", tuple(name for tower in self.towers for name in tower.embeddings.parameters))

    @property
    def blocks(self) -> tuple[Part, ...]:
        """The blocks of all towers, one tower after the other."""
        return tuple(block for tower in self.towers for block in tower.blocks)

    @property
    def after(self) -> tuple[str, ...]:
        """What lies between blocks and head, of all towers."""
        return tuple(name for tower in self.towers for name in tower.after)

    @property
    def block_modules(self) -> tuple[str, ...]:
        """The name of each block's module."""
        return tuple(name for tower in self.towers for name in tower.block_modules)

    @property
    def parts(self) -> tuple[Part, ...]:
        """All parts that hold parameters, from the input to the output; what is unused comes last."""
        towers = (part for tower in self.towers for part in tower.parts)
        return tuple(p for p in (*towers, Part("head", self.head), Part("unused", self.unused)) if p.parameters)

    @property
    def everything(self) -> tuple[str, ...]:
        """The names of all parameters that can move."""
        return tuple(name for part in self.parts if part.name != "unused" for name in part.parameters)

    def part_of(self, parameter: str) -> str:
        """The part that a parameter belongs to, also one that an adapter has put into a module."""
        name = parameter.removeprefix("base_model.model.")
        for module, block in zip(self.block_modules, self.blocks, strict=True):
            if name.startswith(module + "."):
                return block.name
        words = name.split(".")
        return max(self.parts, key=lambda part: max(_shared(words, p.split(".")) for p in part.parameters)).name

    def head_modules(self) -> list[str]:
        """The modules that own the head's parameters, none inside another.

        What the model itself owns, such as a temperature, has no module: adapters leave it as it is.
        """
        owners = {name.rpartition(".")[0] for name in self.head} - {""}
        return sorted(name for name in owners if not any(name.startswith(f"{other}.") for other in owners))

    def linear_layers(self, model: nn.Module) -> list[str]:
        """The names of the linear layers inside the blocks; where there are none, of the convolutions.

        A convolution in groups is left out: an adapter's rank would have to be a multiple of their number.
        """
        from torch import nn
        from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
        from transformers.pytorch_utils import Conv1D

        inside = {
            f"{block}.{name}".rstrip("."): module
            for block in self.block_modules
            for name, module in model.get_submodule(block).named_modules()
        }
        linear = [
            name
            for name, module in inside.items()
            # torch's own attention reads the weights of its last layer without calling it.
            if isinstance(module, nn.Linear | Conv1D) and not isinstance(module, NonDynamicallyQuantizableLinear)
        ]
        # A subclass may pad its input or normalise its weights, which an adapter beside it would not.
        return linear or [name for name, m in inside.items() if type(m) is nn.Conv2d and m.groups == 1]


def anatomy(model: nn.Module, new: Collection[str] = ()) -> Anatomy:
    """The anatomy of a transformers model with a head.

    new: the parameters that the checkpoint does not hold, as `from_pretrained` reports them.

    Raises:
        HfadaptError: the model has no blocks that could be told apart.
    """
    family = family_of(model.config.model_type)  # type: ignore[union-attr,arg-type]
    names = [name for name, _ in model.named_parameters()]
    unused = _below(names, family.unused.get(type(model).__name__, ()) if family else ())
    bodies = _bodies(model)
    head = _below(names, family.head if family and len(bodies) > 1 else ())
    head |= {name for name in names if not name.startswith(tuple(_dotted(body) for body in bodies.values()))}
    head |= {name for body in bodies.values() for name in _classifier(model, body)}
    modules = {name: _block_modules(model, body, head | unused) for name, body in bodies.items()}
    blocks = [module for found in modules.values() for module in found]
    if not blocks:
        raise HfadaptError(f"No blocks were found in {type(model).__name__}: none of its modules holds parameters.")
    head |= set(new) - _below(names, blocks)
    head -= unused
    early = family.embeddings if family else ()
    towers = tuple(
        _tower(tower, body, modules[tower], [n for n in names if n not in head | unused], early)
        for tower, body in bodies.items()
    )
    return Anatomy(towers, tuple(n for n in names if n in head), tuple(n for n in names if n in unused))


def family_of(model_type: str) -> Family | None:
    """The family that speaks of a configuration's `model_type`, if any does."""
    families: Mapping[str, Family] = discover.facts("hfadapt.backbones", Family)
    return next((f for f in families.values() if model_type in f.model_types), None)


def _tower(tower: str, body: str, modules: Collection[str], names: Collection[str], early: Collection[str]) -> Tower:
    """names: of the model's parameters that are neither head nor unused; early: modules of the body."""
    blocks: dict[str, list[str]] = {module: [] for module in modules}
    embeddings: list[str] = []
    after: list[str] = []
    first = _below(names, [_dotted(body) + module for module in early])
    for name in names:
        if not name.startswith(_dotted(body)):
            continue
        block = next((module for module in modules if name.startswith(f"{module}.")), None)
        if block:
            blocks[block].append(name)
        else:
            (after if any(blocks.values()) and name not in first else embeddings).append(name)
    dot = _dotted(tower)
    return Tower(
        tower,
        Part(f"{dot}embeddings", tuple(embeddings)),
        tuple(Part(f"{dot}blocks[{i}]", tuple(found)) for i, found in enumerate(blocks.values())),
        tuple(after),
        tuple(modules),
    )


def _bodies(model: nn.Module) -> dict[str, str]:
    """The module that is the body of each tower; the model itself, "", where none is known to be."""
    from transformers import PreTrainedModel

    prefix = str(model.base_model_prefix)
    if hasattr(model, prefix):
        return {"": prefix}
    # `base_model` of CLIP's classes is the whole model; their bodies have configurations of their own.
    own = {
        name: "vision" if child.main_input_name == "pixel_values" else "text"
        for name, child in model.named_children()
        if isinstance(child, PreTrainedModel) and child.config is not model.config
    }
    if len(own) == 1:
        return {"": next(iter(own))}
    found = {tower: name for name, tower in own.items()}
    return {tower: found[tower] for tower in ("vision", "text")} if len(own) == len(found) == 2 else {"": ""}


def _classifier(model: nn.Module, body: str) -> Iterator[str]:
    """The parameters of the head of a timm model, which lies inside what transformers calls the body.

    https://huggingface.co/docs/timm/feature_extraction: every model has `get_classifier`.
    """
    from torch import nn

    getter = getattr(model.get_submodule(body), "get_classifier", None)
    found = getter() if callable(getter) else ()
    # A distilled model has two.
    heads = [found] if isinstance(found, nn.Module) else found
    owned = {id(p) for head in heads if isinstance(head, nn.Module) for p in head.parameters()}
    return (name for name, p in model.named_parameters() if id(p) in owned)


def _block_modules(model: nn.Module, body: str, outside: Collection[str]) -> list[str]:
    """The names of the modules of a body that are its blocks: the children of its outermost lists of modules.

    Of three kinds of lists, those count that hold most parameters: `ModuleList`s, as in nearly every model of
    transformers; `Sequential`s of modules that have children themselves, as in timm's ResNet and ViT; those of
    plain layers, as in VGG. Where there is no list, as in Inception, the body's own children are its blocks.

    outside: parameters that belong to no block.
    """
    from torch import nn

    inside = model.get_submodule(body)
    held = {f"{_dotted(body)}{n}": p.numel() for n, p in inside.named_parameters()}
    held = {name: size for name, size in held.items() if name not in outside}
    lists: dict[str, str] = {}
    for name, module in inside.named_modules(prefix=body):
        if isinstance(module, nn.ModuleList | nn.Sequential) and not name.startswith(tuple(f"{o}." for o in lists)):
            compound = any(True for child in module.children() for _ in child.children())
            lists[name] = "list" if isinstance(module, nn.ModuleList) else "compound" if compound else "plain"
    sizes = {kind: sum(held[n] for n in _below(held, [k for k in lists if lists[k] == kind])) for kind in _KINDS}
    wanted = [name for name, kind in lists.items() if kind == max(_KINDS, key=sizes.__getitem__) and sizes[kind]]
    if wanted and lists[wanted[0]] != "list":
        # Deeper ones are branches of what lies beside the others.
        wanted = [name for name in wanted if name.count(".") == min(other.count(".") for other in wanted)]
    wanted = wanted or [body]
    children = [_dotted(name) + child for name in wanted for child, _ in model.get_submodule(name).named_children()]
    return [child for child in children if _below(held, [child])]


def _below(names: Collection[str], modules: Collection[str]) -> set[str]:
    """The parameters that are, or lie inside, one of the named modules."""
    return {name for name in names for module in modules if name == module or name.startswith(f"{module}.")}


def _dotted(name: str) -> str:
    return f"{name}." if name else ""


def _shared(one: list[str], other: list[str]) -> int:
    """How many leading words two dotted names share."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
