"""Export the model of a run: graphs with their processor beside them, compared with PyTorch and timed."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfadapt.errors import HfadaptError, Problem, RunError, did_you_mean, one_line
from hfadapt.exported.folder import FORMATS, MANIFEST, OURS, RECIPE, Exported, need, open_exported
from hfadapt.folder import Run, clear, open_run, readable
from hfadapt.reading import read
from hfadapt.recipe import Recipe
from hfadapt.scoring.kinds import best_first
from hfadapt.using import classes, kind_of, score

if TYPE_CHECKING:
    from torch import Tensor

    from hfadapt.kind import Kind

Batch = dict[str, "Tensor"]

TOLERANCE = 1e-4
"""The most that an output may differ from PyTorch's; of outputs above 1 relative to the largest."""
_SHAPES = ((1, 1, 1), (3, 2, 9), (5, 4, 600))
"""Of each batch that is compared: its rows, and about how many tokens its shortest and longest text has."""
_TRACED = (2, 6, 11)
"""The same of the rows that are traced; torch.export takes an axis of length 1, and equal ones, for fixed."""
_TIMED = (8, 32, 32)
"""The same of the rows that are timed."""
_ROUNDS, _SECONDS = (7, 51), 4.0
"""The least and the most rounds whose median is the speed, and the time after which no more begin."""


def export(run: Run | str | Path, to: str, out: str | Path | None = None, changes: Sequence[str] = ()) -> Exported:
    """Export a finished run's model, into the folder `RUN/FORMAT` or another; an earlier export there is replaced.

    to: `onnx`, `onnx-int8` (weights of 8 bits) or `torch-export`; changes: to the recipe, for the rows that int8 is
    scored on, such as `data.test=other.csv`. The folder holds graphs, configuration, processor and `export.json`,
    which says what was compared and measured.

    Raises:
        HfadaptError: the run is not finished, a package is missing, the model can't be exported, or its graphs don't
            answer as it does.
    """
    if to not in FORMATS:
        raise HfadaptError(f"There is no format '{to}'. {did_you_mean(to, FORMATS)}")
    run = run if isinstance(run, Run) else open_run(run)
    if not run.done:
        raise RunError(f"The run {run.path} is not finished. Go on with it: hfadapt run --resume {run.path}.")
    need(to)
    folder = Path(out) if out else run.path / to
    _refuse_taken(folder)
    from hfadapt.noise import quiet

    draft = folder.with_name(f".{folder.name}.draft")
    clear(draft)
    try:
        draft.mkdir(parents=True)
        with quiet():
            _make(run, to, draft, changes)
        readable(draft)
        _put(draft, folder)
    except OSError as error:
        raise RunError(f"The export can't be written: {error.strerror}: '{error.filename}'.") from error
    finally:
        clear(draft)
    return Exported(folder)


def _refuse_taken(folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).exists():
        raise RunError(f"'{folder}' holds something else than an export. Choose another --out.")
    if folder.exists() and not folder.is_dir():
        raise RunError(f"'{folder}' is a file. Choose another --out.")


def _put(draft: Path, folder: Path) -> None:
    """Let the finished folder take the place of the one before."""
    before = folder.with_name(f".{folder.name}.before")
    clear(before)
    if folder.exists():
        folder.replace(before)
    draft.replace(folder)
    clear(before)


def _make(run: Run, to: str, draft: Path, changes: Sequence[str]) -> None:
    """Trace, write, compare and measure, all in the draft folder."""
    from hfadapt.exported import graphs

    recipe = read(run.path / RECIPE, changes)
    model, processor = _loaded(run, recipe)
    exported = _graphs(run, recipe, model, processor, to)
    exported.save_pretrained(draft)
    model.config.save_pretrained(draft)
    processor.save_pretrained(draft)
    if draft.parent != run.path:
        shutil.copyfile(run.path / RECIPE, draft / RECIPE)
    manifest = json.loads((draft / MANIFEST).read_text(encoding="utf-8"))

    def tell(**more: Any) -> Exported:
        manifest.setdefault(OURS, {}).update(more)
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        (draft / MANIFEST).write_text(text, encoding="utf-8")
        return Exported(draft)

    running = graphs.run(tell(format=to, **_facts(run, recipe, model)))
    batches = [_batch(recipe, processor, *shape) for shape in _SHAPES]
    tell(checked=_compared(model, running, recipe, batches, strict=to != "onnx-int8"))
    made = tell(speed=_timed({to: running, "pytorch": model}, _batch(recipe, processor, *_TIMED)))
    if to == "onnx-int8":
        tell(score=_drop(run, made, recipe, kind_of(model.config, recipe), changes))


def _loaded(run: Run, recipe: Recipe) -> tuple[Any, Any]:
    """The model on the CPU in full precision, and its processor."""
    import torch
    from transformers import AutoConfig

    from hfadapt.backbones.base import Source

    source, config = Source(recipe.name, str(run.model)), AutoConfig.from_pretrained(run.model)
    model, _ = recipe.task.model(source, config, dtype=torch.float32)
    return model.eval(), recipe.task.processor(source, config)


def _facts(run: Run, recipe: Recipe, model: Any) -> dict[str, Any]:
    """What is known of the model before anything is measured."""
    facts: dict[str, Any] = {"task": recipe.task.name, "model": _digest(run.model)}
    if hasattr(model, "logit_scale"):
        bias = getattr(model, "logit_bias", None)
        facts["logits"] = "scale * (image_embeds @ text_embeds.T) + bias"
        facts["scale"] = float(model.logit_scale.detach().exp())
        facts["bias"] = 0.0 if bias is None else float(bias.detach())
    if names := classes(run, recipe):
        facts["classes"] = list(names)
    return facts


def _digest(model: Path) -> str:
    """The SHA-256 of all weights."""
    digest = hashlib.sha256()
    for path in sorted(model.glob("*.safetensors")):
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _graphs(run: Run, recipe: Recipe, model: Any, processor: Any, to: str) -> Any:
    """The graphs in a format, as transformers' ExportedModel; int8 is made of the run's own ONNX where it is there."""
    from transformers.exporters.base import ExportedModel

    from hfadapt.exported import graphs, tracing

    if to == "onnx-int8":
        made = open_exported(run.path / "onnx")
        if made and made.about["model"] == _digest(run.model):
            return tracing.quantised(ExportedModel.from_pretrained(made.path))
        return tracing.quantised(_graphs(run, recipe, model, processor, "onnx"))
    inputs = _batch(recipe, processor, *_TRACED)
    fixed = recipe.task.modality == "image" or "attention_mask" not in inputs
    longest = None if fixed else recipe.task.limit(processor)
    return tracing.traced(graphs.parts(model, inputs), to, f"A model of the kind '{model.config.model_type}'", longest)


def _batch(recipe: Recipe, processor: Any, rows: int, shortest: int, longest: int) -> Batch:
    """Inputs of random texts and pictures, made as the task makes them; shortest, longest: about so many tokens."""
    import numpy as np
    from PIL import Image

    from hfadapt.training.rows import as_rows

    draw = np.random.default_rng([rows, shortest])
    tokenizer = getattr(processor, "tokenizer", processor)
    roles = {role: its.holds for role, its in recipe.task.roles.items()}
    texts = [role for role, holds in roles.items() if holds == "text"]
    optional = {role for role in texts if recipe.task.roles[role].optional}
    columns: dict[str, list[Any]] = {}
    for role in texts:
        if role not in optional or role in recipe.data.columns:
            known = sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))
            lengths = np.linspace(shortest, longest, rows).astype(int)
            columns[role] = [tokenizer.decode(draw.choice(known, size=length).tolist()) for length in lengths]
    if "image" in roles:
        noise = draw.integers(0, 256, (rows, 6, 8, 3), dtype=np.uint8)
        columns["image"] = [Image.fromarray(one).resize((80, 60)) for one in noise]
    return dict(recipe.task.collator(processor)(as_rows(recipe.task.encode(columns, processor))))


def _compared(model: Any, running: Any, recipe: Recipe, batches: Sequence[Batch], *, strict: bool) -> dict[str, Any]:
    """How far the outputs are from PyTorch's.

    Raises:
        HfadaptError: too far, where it is strict; or the graphs don't take a batch.
    """
    import torch

    worst, shapes, allowed = 0.0, [], True
    for batch in batches:
        shapes.append({name: list(tensor.shape) for name, tensor in batch.items()})
        with torch.no_grad():
            true = model(**batch)
        try:
            found = running(**batch)
        except Exception as error:  # onnxruntime and torch.export raise kinds of their own.
            says = f"The exported model does not take inputs of the shapes {shapes[-1]}: {str(error)[:160]}"
            raise HfadaptError(Problem(one_line(says))) from error
        for name in recipe.task.reads:
            difference = (found[name] - true[name]).abs().max().item()
            allowed &= difference <= TOLERANCE * max(1.0, true[name].abs().max().item())
            if not math.isfinite(difference):
                raise HfadaptError(
                    f"The exported model answers with what is no number, in its {name}. It was not kept."
                )
            worst = max(worst, difference)
    if strict and not allowed:
        says = f"The exported model answers otherwise than the run's: its outputs differ by {worst:.2g}"
        raise HfadaptError(Problem(f"{says}, and {TOLERANCE:g} is allowed.", hint="It was not kept."))
    return {"outputs": list(recipe.task.reads), "max_difference": worst, "shapes": shapes} | (
        {"tolerance": TOLERANCE} if strict else {}
    )


def _timed(models: Mapping[str, Callable[..., Any]], batch: Batch) -> dict[str, Any]:
    """Rows a second of each model, on this machine's CPU: the median of several rounds, the models taking turns."""
    import torch

    seconds: dict[str, list[float]] = {name: [] for name in models}
    begun = time.monotonic()
    with torch.no_grad():
        for model in models.values():
            model(**batch)
        for round_ in range(_ROUNDS[1]):
            if round_ >= _ROUNDS[0] and time.monotonic() - begun > _SECONDS:
                break
            for name, model in models.items():
                start = time.perf_counter()
                model(**batch)
                seconds[name].append(time.perf_counter() - start)
    rows = len(next(iter(batch.values())))
    return {
        "rows_per_second": {name: round(rows / statistics.median(its), 1) for name, its in seconds.items()},
        "shapes": {name: list(tensor.shape) for name, tensor in batch.items()},
        "rounds": len(seconds["pytorch"]),
        "threads": torch.get_num_threads(),
    }


def _drop(run: Run, made: Exported, recipe: Recipe, kind: Kind, changes: Sequence[str]) -> dict[str, Any]:
    """The run's main score on its test rows, of the model and of what was exported."""
    found = score(made, changes, splits=("test",))["test"]
    plain = score(run, changes, splits=("test",))["test"] if changes else None
    own = run.scores["scores"]["test"] if plain is None else {name: its.as_dict() for name, its in plain.items()}
    of_classes = ("base_accuracy", "zero_shot_accuracy") if classes(made, recipe) else ()
    wanted = (recipe.train.get("metric_for_best_model"), *of_classes, recipe.task.score(kind))
    names = [name for name in wanted if name in found and name in own]
    if not names:
        raise HfadaptError("The test rows have no score to compare: the answers are all alike.")
    before, after = own[names[0]]["value"], found[names[0]].value
    better = best_first(names[0])
    return {
        "metric": names[0],
        "split": "test",
        "rows": found[names[0]].rows,
        "pytorch": before,
        made.about["format"]: after,
        "drop": before - after if better else after - before,
    }
