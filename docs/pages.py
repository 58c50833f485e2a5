"""Pages that are written from the code: the recipe, tasks, methods, families, commands, figures.

A Sphinx extension; before reading, it writes them into `docs/reference/`, which is not committed.
"""

from __future__ import annotations

import argparse
import inspect
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from hfadapt import discover, gallery
from hfadapt.backbones.base import Family
from hfadapt.cli import verb, verbs
from hfadapt.methods.base import Adaptation
from hfadapt.recipe import Recipe, schema
from hfadapt.settings import DEFAULTS, EARLY_STOPPING, GONE, OURS_TO_SET, training_fields
from hfadapt.tasks.base import Task

HERE = Path(__file__).parent
OUT = HERE / "reference"
ROOT = HERE.parent

EXAMPLES: dict[str, str] = {
    "hfadapt": "hfadapt: 1",
    "task": "task: {type: text-classification, max_length: 128}",
    "model": "model: sentence-transformers/all-MiniLM-L6-v2",
    "model.name": "model: {name: google-bert/bert-base-uncased}",
    "model.revision": "model: {name: google-bert/bert-base-uncased, revision: main}",
    "model.dtype": "model: {name: google-bert/bert-base-uncased, dtype: bfloat16}",
    "model.attn_implementation": "model: {name: google-bert/bert-base-uncased, attn_implementation: sdpa}",
    "model.trust_remote_code": "model: {name: me/my-own-architecture, trust_remote_code: true}",
    "model.unpad": "model: {name: google-bert/bert-base-uncased, unpad: on}",
    "data": "data: {path: reviews.csv}",
    "data.path": "data: {path: reviews.csv}",
    "data.name": "data: {path: nyu-mll/glue, name: sst2}",
    "data.revision": "data: {path: nyu-mll/glue, name: sst2, revision: main}",
    "data.train": "data: {path: my/dataset, train: unlabelled_removed}",
    "data.validation": "data: {path: reviews.csv, validation: 0.2}",
    "data.test": "data: {path: reviews.csv, test: later_reviews.csv}",
    "data.max_train_samples": "data: {path: reviews.csv, max_train_samples: 500}",
    "data.max_eval_samples": "data: {path: my/dataset, max_eval_samples: 1000}",
    "data.labels": "data: {path: reviews.csv, labels: [bad, good]}",
    "data.label_separator": "data: {path: tagged.csv, label_separator: '|'}",
    "data.separator": "data: {path: reviews.csv, separator: ';'}",
    "data.encoding": "data: {path: reviews.csv, encoding: latin-1}",
    "data.on_bad_row": "data: {path: reviews.csv, on_bad_row: skip}",
    "data.sampling": "data: {path: reviews.csv, sampling: balanced}",
    "data.streaming": "data: {path: 'shards/*.parquet', validation: held_out.parquet, streaming: true}",
    "data.image": "task: image-classification\ndata: {path: pictures.csv, image: file}",
    "data.label": "data: {path: reviews.csv, label: verdict}",
    "data.text": "data: {path: reviews.csv, text: review}",
    "data.text_pair": "data: {path: pairs.csv, text: question, text_pair: answer}",
    "adapt": "adapt: {method: lora, r: 8}",
    "train": "train: {learning_rate: 3e-5, num_train_epochs: 4}",
    "cache": "cache: off",
    "cache.use": "cache: {use: on}",
    "cache.dtype": "cache: {dtype: bfloat16}",
    "cache.views": "cache: {views: 4}",
    "cache.most": "cache: {most: 50}",
    "cache.pictures": "cache: {pictures: off}",
    "metrics": "metrics: [matthews_correlation]",
    "push": "push: {repo: me/my-model}",
    "push.repo": "push: {repo: me/my-model}",
    "push.private": "push: {repo: me/my-model, private: false}",
    "push.branch": "push: {repo: me/my-model, branch: candidates}",
    "push.tag": "push: {repo: me/my-model, tag: v1}",
    "push.pull_request": "push: {repo: me/my-model, pull_request: true}",
    "data.shuffle_buffer": "data: {path: 'big/*.csv', validation: held_out.csv, streaming: true, shuffle_buffer: 9999}",
}
"""A line or two for each key of a recipe."""


def setup(app: Any) -> dict[str, Any]:
    """Let Sphinx call this before it reads."""
    app.connect("builder-inited", lambda _: write())
    return {"parallel_read_safe": True}


def write() -> None:
    """Write every page anew."""
    shutil.rmtree(OUT, ignore_errors=True)
    for name, text in pages().items():
        path = OUT / f"{name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """The text of every page, by its path below `reference/`."""
    tasks = discover.variants("hfadapt.tasks", Task)
    methods = discover.variants("hfadapt.methods", Adaptation)
    families = discover.facts("hfadapt.backbones", Family)
    modules = discover.modules("hfadapt.backbones")
    found = {"recipe": recipe_page(), "commands": commands_page()}
    found |= {f"tasks/{name}": variant_page(kind, "task") for name, kind in tasks.items()}
    found |= {f"methods/{name}": variant_page(kind, "method") for name, kind in methods.items()}
    found |= {f"families/{name}": family_page(name, its, modules[name].__doc__ or "") for name, its in families.items()}
    for folder, title in (("tasks", "Tasks"), ("methods", "Methods"), ("families", "Families")):
        found[f"{folder}/index"] = index_page(title, gallery.listing()[folder])
    return found


def index_page(title: str, says: Mapping[str, str]) -> str:
    """A table of links, and what Sphinx needs for the sidebar."""
    rows = "\n".join(f"| [{name}]({name}.md) | {what} |" for name, what in says.items())
    names = "\n".join(says)
    return f"# {title}\n\n| | |\n|---|---|\n{rows}\n\n```{{toctree}}\n:hidden:\n\n{names}\n```\n"


def recipe_page() -> str:
    """Every key of a recipe: its meaning, its default, an example."""
    whole = schema()
    parts = ["# The recipe", "", "Every key. What is left out takes its default; `train` has upstream's names.", ""]
    for name, field in Recipe.model_fields.items():
        parts += [f"## `{name}`", "", field.description or "", "", f"Default: {_default(field)}.", "", *_example(name)]
        section = whole["$defs"].get(name.capitalize(), {})
        model = field.annotation if hasattr(field.annotation, "model_fields") else None
        for key, about in section.get("properties", {}).items():
            default = _default(model.model_fields[key]) if model and key in model.model_fields else "found by its name"
            parts += [f"### `{name}.{key}`", "", about.get("description", ""), "", f"Default: {default}.", ""]
            parts += _example(f"{name}.{key}")
        if name == "train":
            parts += list(_training())
    return "\n".join(parts) + "\n"


def _example(key: str) -> list[str]:
    return ["```yaml", EXAMPLES[key], "```", ""] if key in EXAMPLES else []


def _default(field: Any) -> str:
    if field.is_required():
        return "none; it must be given"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "nothing"
    if isinstance(value, BaseModel):
        return "its own defaults"
    return f"`{value!r}`" if value not in ({}, []) else "empty"


def _training() -> Iterator[str]:
    known = training_fields()
    yield "Where hfadapt differs from `TrainingArguments`:\n\n| argument | here | why |\n|---|---|---|"
    yield from (f"| `{name}` | `{value}` | {why} |" for name, (value, why) in DEFAULTS.items())
    yield "\nNames of our own, or of transformers' callbacks:\n\n| argument | default | meaning |\n|---|---|---|"
    yield from (f"| `{name}` | `{its.default}` | {its.help} |" for name, its in EARLY_STOPPING.items())
    yield "\nNot set in a recipe:\n\n| argument | why |\n|---|---|"
    yield from (f"| `{name}` | {why} |" for name, why in sorted(OURS_TO_SET.items()))
    yield "\nNames of older versions:\n\n| argument | now |\n|---|---|"
    yield from (f"| `{name}` | {why} |" for name, why in sorted(GONE.items()))
    yield "\nAll others, in upstream's words:\n\n| argument | meaning |\n|---|---|"
    for name, its in sorted(known.items()):
        if name not in EARLY_STOPPING:
            yield f"| `{name}` | {_cell(its.help)} |"
    yield ""


def _cell(text: str) -> str:
    """Fit for a cell of a table."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "&lt;").replace("`", "")


def variant_page(kind: type[Any], tag: str) -> str:
    """A task or a method: what its docstring says, and its options."""
    lines = inspect.cleandoc(kind.__doc__ or "")
    whole = _paragraphs(lines)
    parts = [f"# {kind.name}", "", whole, ""]
    own = {name: field for name, field in kind.model_fields.items() if name != tag}
    if roles := getattr(kind, "roles", None):
        parts += ["## Columns", "", "| in `data` | holds | found as |", "|---|---|---|"]
        parts += [
            f"| `{name}` | {its.help} | {', '.join(f'`{n}`' for n in its.guesses)} |" for name, its in roles.items()
        ]
        parts += [""]
    if own:
        parts += ["## Options", "", "| key | default | meaning |", "|---|---|---|"]
        for name, field in own.items():
            parts.append(f"| `{field.alias or name}` | {_default(field)} | {_cell(field.description or '')} |")
        parts += [""]
    if isinstance(config := getattr(kind, "config", None), str):
        module, _, name = config.partition(":")
        parts += [f"Besides these, every field of `{module.split('.tuners')[0]}.{name}` by its own name.", ""]
    if rate := getattr(kind, "rate", None):
        new = "" if kind.wrap is not Adaptation.wrap else " and a head is new"
        parts += [f"Where a recipe names no `learning_rate`{new}, it is {rate:g}.", ""]
    recipe = f"{'task' if tag == 'task' else 'adapt'}: {kind.name}"
    if tag == "task" or not any(field.is_required() for field in own.values()):
        parts += ["## In a recipe", "", "```yaml", recipe, "```", ""]
    return "\n".join(parts)


def _paragraphs(text: str) -> str:
    """The docstring, with its `When to use:` and `Compared with` standing out."""
    text = re.sub(r"When to use:", "**When to use:**", text)
    text = re.sub(r"(Compared with `[\w-]+`)", r"**\1**", text)
    return re.sub(r"(?<![<(\[`])(https?://[^\s)]+[^\s).,;])", r"<\1>", text)


def family_page(name: str, family: Family, doc: str) -> str:
    """A kind of backbone: what it reads, and what had to be said of it by hand."""
    parts = [f"# {name}", "", _paragraphs(inspect.cleandoc(doc)), ""]
    reads = {"text": "texts", "image": "pictures", "image-text": "pictures and texts"}[family.modality]
    parts += [
        f"Reads {reads}. `model_type` of its configurations: {', '.join(f'`{t}`' for t in family.model_types)}.",
        "",
    ]
    facts = {
        "positions_offset": family.positions_offset,
        "embeddings": ", ".join(f"`{e}`" for e in family.embeddings),
        "head": ", ".join(f"`{e}`" for e in family.head),
        "unused": ", ".join(f"`{n}` of `{c}`" for c, names in family.unused.items() for n in names),
        "fixed_length": "yes" if family.fixed_length else "",
    }
    docs = _attribute_docs(Family)
    if told := {key: value for key, value in facts.items() if value}:
        parts += ["| what its modules do not tell | | |", "|---|---|---|"]
        parts += [f"| `{key}` | {value} | {_cell(docs[key])} |" for key, value in told.items()]
    else:
        parts += ["Everything else is derived from its modules."]
    return "\n".join(parts) + "\n"


def _attribute_docs(kind: type[Any]) -> dict[str, str]:
    """The strings below the attributes of a class."""
    found = re.findall(r'^    (\w+): .*?\n    """(.*?)"""', inspect.getsource(kind), re.S | re.M)
    return {name: " ".join(text.split()) for name, text in found}


def commands_page() -> str:
    """Every verb: what it does, its options, an example."""
    parts = ["# Commands", "", "All take `--json`. They exit with 0, with 1 when something failed, and with 2 when the"]
    parts += ["mistake is yours to mend.", ""]
    for name in verbs():
        module = verb(name)
        parser = argparse.ArgumentParser(add_help=False)
        module.options(parser)
        parts += [f"## `hfadapt {name}`", "", f"{module.SAYS[0].upper()}{module.SAYS[1:]}.", ""]
        rows = [
            f"| `{' '.join(a.option_strings) or a.metavar or a.dest}` | {_cell(a.help or '')} |"
            for a in parser._actions
        ]
        parts += ["| | |", "|---|---|", *rows, ""] if rows else []
        parts += ["```console", f"$ {module.EXAMPLE}", "```", ""]
    return "\n".join(parts)
