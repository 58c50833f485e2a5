"""The contract of a run, taken down while its model is in memory."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hfadapt import __version__
from hfadapt.backbones.base import anatomy
from hfadapt.contract.loaded_alone import PART, ask, digest, digests, settings
from hfadapt.folder import Run, readable
from hfadapt.planning import Plan, skeleton
from hfadapt.tasks._classification import VALUE
from hfadapt.tasks._pictures import opened
from hfadapt.training.rows import as_rows

ROWS, BATCH = 8, 4
"""How many validation rows are kept, and how many of them are computed together."""
_LOOKED_AT = 2_000
"""Among how many rows those of all lengths are found."""

Inputs = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Began:
    """What a run began with, as checksums by the name of the tensor."""

    new: Mapping[str, str]
    """Of what no checkpoint holds."""
    base: Mapping[str, str]
    """Of the first elements of all the rest."""


@dataclass(frozen=True)
class Sample:
    """Rows as a user would give them, and as the model that trained saw and answered them."""

    rows: Sequence[Mapping[str, str]]
    """Texts by role; for a picture the name of the tensor that holds the bytes of its file."""
    pictures: Mapping[str, torch.Tensor]
    batches: Sequence[Sequence[int]]
    """The places of the rows that are computed together."""
    inputs: Sequence[Inputs]
    """Of each batch."""
    trained: Mapping[str, torch.Tensor]
    """What the model answered before adapters were merged."""


def begin(model: torch.nn.Module, plan: Plan) -> Began:
    """What a model begins with that was just loaded: which tensors loading reported missing, and their values."""
    if plan.recipe.adapt.scratch:
        return Began({}, {})
    # By now its files are on this machine; nothing that is random later may depend on this.
    with torch.random.fork_rng(devices=[]):
        _, new = skeleton(plan.recipe, replace(plan.source, local=True), plan.config, plan.same_labels)
    unused = anatomy(model, new).unused
    state = model.state_dict()
    base = {name: code for name, code in digests(model, PART).items() if name not in new}
    return Began({name: digest(state[name]) for name in sorted(new) if name not in unused}, base)


def sample(model: torch.nn.Module, plan: Plan) -> Sample:
    """Keep some validation rows of all lengths, with what training's encoding and the trained model make of them."""
    task, table = plan.recipe.task, plan.data.splits["validation"]
    places = _of_all_lengths(plan)
    columns = [role for role, its in task.roles.items() if its.holds != "target" and role in table.column_names]
    raw = table.select(places).select_columns(columns)
    rows, pictures = [], {}
    for number, row in enumerate(raw):
        rows.append({role: value for role, value in row.items() if role != "image"})
        if "image" in row:
            rows[-1]["image"] = f"picture.{number}"
            pictures[f"picture.{number}"] = torch.frombuffer(bytearray(_content(row["image"])), dtype=torch.uint8)
    step = -(-len(rows) // BATCH)
    # Rows of different lengths meet, so that padding shows.
    batches = [list(range(first, len(rows), step)) for first in range(step)]
    collate = task.collator(plan.processor)
    inputs = [dict(collate(as_rows(task.encode(raw[batch], plan.processor)))) for batch in batches]
    return Sample(rows, pictures, batches, inputs, _answers(model, inputs, _outputs(plan)))


def write(model: torch.nn.Module, plan: Plan, run: Run, began: Began, kept: Sample) -> None:
    """Write `contract.json` and `contract.safetensors`, of the model that was just saved and of its adapter.

    No path, and no name of a person or machine, but what the rows themselves say.
    """
    from safetensors.torch import save_file

    task, labels = plan.recipe.task, plan.data.labels
    names, answers = _expected(model, plan, kept)
    state = digests(model)
    first = next(model.parameters())
    said = {
        "format": 1,
        "hfadapt": __version__,
        "torch": torch.__version__,
        "auto_class": task.auto_class,
        "pipeline": task.pipeline,
        "modality": task.modality,
        "problem_type": None if task.contrasts else getattr(model.config, "problem_type", None),
        "labels": [] if task.contrasts else list(labels.names or (VALUE,)),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": first.device.type,
        "threads": torch.get_num_threads(),
        "outputs": list(_outputs(plan)),
        "rows": kept.rows,
        "batches": kept.batches,
        "answers": names,
        "processor": settings(plan.processor),
        "new": {name: state.get(name) != code for name, code in began.new.items()} if _moves(plan) else {},
        "digests": state,
        "adapter": _adapter(run, began),
    }
    after = _answers(model, kept.inputs, _outputs(plan))
    tensors = {**kept.pictures, "answers": answers}
    for number, inputs in enumerate(kept.inputs):
        tensors |= {f"{number}.inputs.{name}": its.contiguous() for name, its in inputs.items()}
    tensors |= {name.replace(".", ".trained.", 1): its for name, its in kept.trained.items()}
    tensors |= {name.replace(".", ".model.", 1): its for name, its in after.items()}
    save_file(tensors, run.path / "contract.safetensors")
    run.write("contract.json", json.dumps(said, indent=1, ensure_ascii=False) + "\n")
    readable(run.path)


def _of_all_lengths(plan: Plan) -> list[int]:
    """Places of rows from the shortest to the longest; of pictures, from the first to the last."""
    task, table = plan.recipe.task, plan.data.splits["validation"]
    number = min(len(table), _LOOKED_AT)
    texts = [role for role, its in task.roles.items() if its.holds == "text" and role in table.column_names]
    lengths = task.lengths(table.select(range(number)).select_columns(texts)[:], plan.processor) if texts else None
    order = np.arange(number) if lengths is None else np.argsort(lengths, kind="stable")
    chosen = np.unique(np.linspace(0, number - 1, ROWS).round().astype(int))
    return [int(place) for place in order[chosen]]


def _content(cell: Mapping[str, Any]) -> bytes:
    """The bytes of a picture's file, or of a PNG of it where plain transformers would open it otherwise.

    Sixteen bits and transparency are such cases.
    """
    from PIL import Image
    from transformers.image_utils import load_image

    ours = opened(cell)
    content = bytes(cell["bytes"]) if cell.get("bytes") is not None else Path(cell["path"]).read_bytes()
    try:
        if np.array_equal(np.asarray(load_image(Image.open(io.BytesIO(content)))), np.asarray(ours)):
            return content
    except (OSError, ValueError, Image.DecompressionBombError):
        pass  # hfadapt shrinks what is too large for Pillow.
    stream = io.BytesIO()
    ours.save(stream, "PNG")
    return stream.getvalue()


def _outputs(plan: Plan) -> tuple[str, ...]:
    """The outputs that are compared."""
    return (*plan.recipe.task.reads, *(("logits_per_image",) if plan.recipe.task.contrasts else ()))


def _answers(model: Any, batches: Sequence[Inputs], outputs: Sequence[str]) -> Inputs:
    """`0.logits`: (rows, labels), of the first batch, and so on."""
    return {
        f"{number}.{name}": its
        for number, inputs in enumerate(batches)
        for name, its in ask(model, inputs, outputs).items()
    }


def _expected(model: Any, plan: Plan, kept: Sample) -> tuple[list[str], torch.Tensor]:
    """The names that a pipeline chooses among, and the chance that it should give each, (rows, names)."""
    task, labels = plan.recipe.task, plan.data.labels
    if task.contrasts:
        tokenizer = plan.processor.tokenizer
        lengths = task.lengths({"text": [row["text"] for row in kept.rows]}, plan.processor) or []
        # The pipeline does not cut what is too long.
        short = [length <= task.limit(plan.processor) for length in lengths]
        texts = list(dict.fromkeys(row["text"] for row, fits in zip(kept.rows, short, strict=True) if fits))
        if not texts:
            return [], torch.zeros(len(kept.rows), 0)
        padding = "longest" if "attention_mask" in tokenizer.model_input_names else "max_length"
        asked = dict(tokenizer(texts, truncation=True, padding=padding, return_tensors="pt"))
        asked["pixel_values"] = torch.cat([inputs["pixel_values"] for inputs in kept.inputs])
        logits = ask(model, asked, ["logits_per_image"])["logits_per_image"]
        chances = logits.sigmoid() if hasattr(model, "logit_bias") else logits.softmax(-1)
    else:
        texts = list(labels.names or (VALUE,))
        answered = _answers(model, kept.inputs, task.reads)
        found = {
            name: np.concatenate([answered[f"{i}.{name}"] for i in range(len(kept.batches))]) for name in task.reads
        }
        chances = torch.from_numpy(np.asarray(task.predictions(found, labels.kind)).reshape(len(kept.rows), -1)).float()
    back = np.argsort(np.concatenate(kept.batches))
    return texts, chances[torch.from_numpy(back)].contiguous()


def _moves(plan: Plan) -> bool:
    """Whether anything should move: not where all steps, few as they are, warm up, the first at a rate of zero."""
    warmup = float(plan.settled.get("warmup_steps", 0))
    return bool(plan.stages) and plan.steps > (math.ceil(warmup * plan.steps) if warmup < 1 else warmup)


def _adapter(run: Run, began: Began) -> dict[str, Any] | None:
    """What tells the adapter that was saved, and its base, from others; None where there is none."""
    from safetensors.torch import load_file

    path = run.path / "adapter" / "adapter_model.safetensors"
    if not path.exists():
        return None
    its = load_file(path)
    return {"digests": {name: digest(tensor) for name, tensor in its.items()}, "base": dict(began.base)}
