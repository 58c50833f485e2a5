"""The schema of a recipe: what a person decided, and nothing computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    PrivateAttr,
    SerializeAsAny,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

from hfadapt import discover
from hfadapt.discover import one_of
from hfadapt.errors import did_you_mean
from hfadapt.methods.base import Adaptation
from hfadapt.push import Push
from hfadapt.section import Section, Variant
from hfadapt.settings import GONE, OURS_TO_SET, out_of_range, training_fields
from hfadapt.tasks.base import Task
from hfadapt.upstream import fields, wrong

FORMAT = 1
"""The version of the recipe format; it grows when the meaning of a recipe changes."""

Paths = Annotated[str, Field(min_length=1)] | Annotated[list[str], Field(min_length=1)]


class Model(Section):
    """The backbone: the checkpoint that training starts from. A plain string is its `name`."""

    name: Annotated[str, Field(min_length=1)]
    """A local folder, a model id on the Hub, or an embedded model."""
    revision: str | None = None
    """Branch, tag or commit on the Hub; the repository's main branch by default."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """The precision that the weights are held in while training."""
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2", "flex_attention"] | None = None
    """The attention kernel; what transformers chooses by default."""
    trust_remote_code: bool = False
    """Run Python code that the checkpoint brings with it. Only for checkpoints that you trust."""
    unpad: Literal["auto", "on", "off"] = "auto"
    """Whether the blocks of a text model compute tokens only, without padding. `auto`: batches of which more than a
    tenth is padding; `on`: all that have any. The answers are the same, which is tried before; dropout draws other
    masks than with padding."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_serializer(mode="wrap")
    def _short(self, handler: Any) -> Any:
        values = handler(self)
        return self.name if set(values) == {"name"} else values


class Data(Section):
    """The rows to learn from and to be judged on. Other keys name the columns that the task reads."""

    model_config = ConfigDict(extra="allow")

    path: Paths
    """A file, a list of files, a glob, a folder with a file per split or with a folder of pictures for each
    class, a dataset id, or `builtin/…`."""
    name: str | None = None
    """The configuration of a dataset on the Hub (`sst2` of `nyu-mll/glue`)."""
    revision: str | None = None
    """Branch, tag or commit of a dataset on the Hub."""
    train: str | None = None
    """The source's split to train on; `train` by default."""
    validation: Annotated[float, Field(gt=0, lt=1)] | Paths | None = None
    """A split of the source, files, or the share of the training rows to set aside.
    By default the source's own, else 0.1."""
    test: Annotated[float, Field(gt=0, lt=1)] | Paths | None = None
    """Like `validation`."""
    max_train_samples: Annotated[int, Field(ge=1)] | None = None
    """At most so many training rows are used: first one of each label, then each at its share, drawn by `train.seed`;
    the rows of a smaller number are among those of a larger one. Shares for `validation` and `test` are of these."""
    max_eval_samples: Annotated[int, Field(ge=1)] | None = None
    """The same for validation and for test rows, where these are rows of their own."""
    labels: list[str | int] | None = None
    """The label names in the order of their ids. By default sorted, or as the source lists them."""
    label_separator: Annotated[str, Field(min_length=1)] | None = None
    """What stands between the labels of one row in a text column (multi-label)."""
    separator: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    """What stands between the columns of a csv file; a comma, or a tab for .tsv, by default."""
    encoding: str = "utf-8"
    """The encoding of text files."""
    on_bad_row: Literal["stop", "skip"] = "stop"
    """What to do about rows that can't be read or have no usable label."""
    sampling: Literal["natural", "balanced"] = "natural"
    """`balanced` draws each label equally often in an epoch (with replacement)."""
    streaming: bool = False
    """Read the training rows while training, and never hold them all: csv, tsv, jsonl or parquet files, or a dataset on
    the Hub. Needs `train.max_steps`, and rows of their own for validation and test, whose labels are those there are
    unless `labels` lists them. Checks and simple methods look at the first 5,000 training rows."""
    shuffle_buffer: Annotated[int, Field(ge=1)] | None = None
    """With `streaming`: among how many rows, read ahead, the next one is drawn; 10,000, or 1,000 of pictures, by
    default. What lies further apart in the files is not mixed."""

    @property
    def columns(self) -> dict[str, str]:
        """The columns that the recipe names, by the task's role for them."""
        return dict(self.__pydantic_extra__ or {})

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str) -> str:
        try:
            "".encode(value)
        except LookupError:
            raise PydanticCustomError("encoding", "Python knows no encoding '{name}'.", {"name": value}) from None
        return value


class Cache(Section):
    """Keeping what would be the same in each epoch: what lies below everything that trains, and decoded pictures.
    A word is its `use`."""

    use: Literal["auto", "on", "off"] = "auto"
    """`auto`: where a row is seen more than once and reading is faster than computing; `on`: wherever it is exact."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """How it is kept. bfloat16 takes half the room, and rounds."""
    views: Annotated[int, Field(ge=1)] | None = None
    """How many variants of each training picture are kept where pictures are augmented. Without, augmented pictures
    are computed anew in each epoch."""
    pictures: Literal["auto", "on", "off"] | None = None
    """Keeping pictures decoded. `auto`: where a row is seen more than once and reading is faster than decoding; `on`:
    wherever it is exact. By default `auto`, and `off` where `use` is."""
    most: Annotated[float, Field(gt=0)] = 20.0
    """The most GiB that all caches of this machine take together."""

    @model_validator(mode="before")
    @classmethod
    def _from_word(cls, value: Any) -> Any:
        return {"use": value} if isinstance(value, str) else value

    @model_serializer(mode="wrap")
    def _short(self, handler: Any) -> Any:
        values = handler(self)
        return self.use if set(values) == {"use"} else values


if TYPE_CHECKING:
    AnyTask = Task
    AnyAdaptation = Adaptation
else:
    AnyTask = Annotated[SerializeAsAny[Task], one_of("hfadapt.tasks", Task, "task")]
    AnyAdaptation = Annotated[SerializeAsAny[Adaptation], one_of("hfadapt.methods", Adaptation, "method")]


class Recipe(Section):
    """A task, a backbone, data and a way to adapt. `read` makes one from a file; Python may too."""

    hfadapt: Literal[1] = 1
    """The version of the recipe format."""
    task: AnyTask
    """What to learn: the name of a task, or a mapping with its `type` and options."""
    model: Model
    """The backbone: the name of a checkpoint, or a mapping."""
    data: Data
    """The rows to learn from and to be judged on."""
    adapt: AnyAdaptation = Field(default="full", validate_default=True)
    """How to adapt: the name of a method, or a mapping with its `method` and options."""
    train: dict[str, Any] = Field(default_factory=dict)
    """Arguments of transformers.TrainingArguments, by their own names."""
    cache: Cache = Cache()
    """Whether what lies below everything that trains is kept: a word, or a mapping."""
    metrics: list[str] = Field(default_factory=list)
    """Metrics of the `evaluate` library, by name or local path, besides the built-in ones."""
    push: Push | None = None
    """Where the finished run goes on the Hub; nowhere by default."""

    _name: str = PrivateAttr("recipe")
    _text: str = PrivateAttr("")
    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    @field_validator("train")
    @classmethod
    def _upstream_names(cls, values: dict[str, Any]) -> dict[str, Any]:
        errors: list[tuple[str, str]] = [
            (key, f"'{key}' is not set in a recipe: {OURS_TO_SET[key]}.") for key in values if key in OURS_TO_SET
        ]
        errors += [(key, f"TrainingArguments has no '{key}' any more: {GONE[key]}.") for key in values if key in GONE]
        theirs = {key: value for key, value in values.items() if key not in OURS_TO_SET | GONE}
        mismatched = list(wrong(theirs, training_fields(), "TrainingArguments"))
        errors += mismatched
        refused = {key for key, _ in mismatched}
        errors += [(k, says) for k, says in out_of_range(theirs) if k not in refused]
        _raise(errors)
        return values

    @field_validator("data", mode="wrap")
    @classmethod
    def _columns_of_the_task(cls, value: Any, check: Any, info: ValidationInfo) -> Data:
        """Both what is wrong with the section's fields and with the columns it names."""
        tasks = [info.data["task"]] if "task" in info.data else discover.variants("hfadapt.tasks", Task).values()
        roles = {role for task in tasks for role in task.roles}
        named = value.columns if isinstance(value, Data) else value if isinstance(value, dict) else {}
        columns = {key: column for key, column in named.items() if key not in Data.model_fields}
        known = {*Data.model_fields, *roles}
        errors = [
            (key, f"Data has no '{key}'. {did_you_mean(key, known, listing=False)}".strip())
            for key in columns
            if key not in roles
        ]
        errors += [
            (key, f"Expected the name of a column, got {column!r}.")
            for key, column in columns.items()
            if key in roles and not (isinstance(column, str) and column)
        ]
        data: Data | None = None
        others: list[Any] = []
        try:
            data = check(value)
        except ValidationError as error:
            others = error.errors()
        _raise(errors, others)
        assert data is not None
        return data

    @property
    def name(self) -> str:
        """What its runs are named after: the file's name without its ending."""
        return self._name

    @property
    def text(self) -> str:
        """The file as written; changed by overrides or made in Python, the YAML that says the same."""
        changed = [f for f, origin in self._origins.items() if origin == "command line"]
        if self._text and not changed:
            return self._text
        return (
            f"# {self.name}, changed on the command line: {', '.join(changed)}\n{self.dump()}"
            if changed
            else self.dump()
        )

    def origin(self, field: str) -> str:
        """Where the value of a dotted field, or the section around it, came from: `my.yaml:12`,
        `command line` or `Python`."""
        if not self._origins:
            return "Python"
        parts = field.split(".")
        names = (".".join(parts[:end]) for end in range(len(parts), -1, -1))
        return next(self._origins[name] for name in names if name in self._origins)

    def dump(self) -> str:
        """The recipe as YAML, without what was left at its default."""
        from io import StringIO

        from ruamel.yaml import YAML

        # The writer must know the same YAML 1.2 as the reader: to PyYAML the word 2e-5 needs no quotes.
        yaml, stream = YAML(typ="safe", pure=True), StringIO()
        yaml.default_flow_style, yaml.sort_base_mapping_type_on_output = False, False
        yaml.dump({"hfadapt": self.hfadapt, **self.model_dump(exclude_unset=True)}, stream)
        return stream.getvalue()


def _raise(errors: list[tuple[str, str]], others: Sequence[Any] = ()) -> None:
    """Raise all (key, sentence), and what pydantic found besides, as one error, each at its own place."""
    details: list[InitErrorDetails] = [
        {"type": PydanticCustomError("refused", "{says}", {"says": says}), "loc": (key,), "input": None}
        for key, says in errors
    ]
    for other in others:
        kind = PydanticCustomError(other["type"], "{says}", {**other.get("ctx", {}), "says": other["msg"]})
        details.append({"type": kind, "loc": other["loc"], "input": other["input"]})
    if details:
        raise ValidationError.from_exception_data("Recipe", details)


def schema() -> dict[str, Any]:
    """The JSON Schema of a recipe, with upstream's fields under `train`."""
    made = Recipe.model_json_schema(mode="validation")
    made["$defs"] = {name: made["$defs"][name] for name in ("Cache", "Data", "Model", "Push")}
    made["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    made["title"] = "hfadapt recipe"
    made["properties"]["train"] = {
        "type": ["object", "null"],
        "description": Recipe.model_fields["train"].description,
        "additionalProperties": False,
        "properties": {name: _property(field) for name, field in sorted(training_fields().items())},
    }
    for name, package, base in (("task", "hfadapt.tasks", Task), ("adapt", "hfadapt.methods", Adaptation)):
        help_text = Recipe.model_fields[name].description
        made["properties"][name] = _short_or_long(package, base, made["$defs"]) | {"description": help_text}
    # A section with all its lines commented out is as if it were not there.
    made["properties"]["adapt"]["anyOf"].append({"type": "null"})
    made["properties"]["metrics"]["type"] = ["array", "null"]
    made["properties"]["model"] = {
        "anyOf": [{"type": "string"}, {"$ref": "#/$defs/Model"}],
        "description": Recipe.model_fields["model"].description,
    }
    made["properties"]["cache"] = {
        "anyOf": [{"enum": ["auto", "on", "off"]}, {"$ref": "#/$defs/Cache"}, {"type": "null"}],
        "description": Recipe.model_fields["cache"].description,
    }
    roles = {
        role: what for task in discover.variants("hfadapt.tasks", Task).values() for role, what in task.roles.items()
    }
    for role, what in sorted(roles.items(), key=lambda item: item[0]):
        made["$defs"]["Data"]["properties"][role] = {"type": "string", "description": f"Column: {what.help}"}
    made["$defs"]["Data"]["additionalProperties"] = False
    return made


_JSON = {"int": "integer", "float": "number", "bool": "boolean", "str": "string", "list": "array", "dict": "object"}


def _property(field: Any) -> dict[str, Any]:
    kinds = sorted(_JSON.get(kind, "null") for kind in field.kinds)
    found: dict[str, Any] = {"description": field.help} | ({"type": kinds} if kinds else {})
    if field.words and field.kinds <= {"str", "None"}:
        found["enum"] = [*field.words, *([None] if "None" in field.kinds else [])]
    return found


def _short_or_long(package: str, base: type[Variant], definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of a section with variants: a name, or a mapping with the tag and that variant's fields."""
    kinds = discover.variants(package, base)
    forms: list[dict[str, Any]] = [{"enum": list(kinds), "description": f"The {base.tag}, with its defaults."}]
    for name, kind in kinds.items():
        form = kind.model_json_schema(mode="validation")
        definitions |= form.pop("$defs", {})
        form["properties"] = {base.tag: {"const": name}, **form.get("properties", {})}
        if isinstance(config := getattr(kind, "config", None), str):
            form["properties"] |= {n: _property(f) for n, f in sorted(fields(config).items())}
            form["additionalProperties"] = False
        form["required"] = [*([] if kind.implied_by else [base.tag]), *form.get("required", [])]
        forms.append(form)
    return {"anyOf": forms}
