"""The cache of what lies below everything that trains: when it serves, where it lies, how a batch meets it."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from accelerate import PartialState
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hfadapt.errors import one_line
from hfadapt.recipe import Cache as Options
from hfadapt.settings import remade
from hfadapt.training import prefix as below
from hfadapt.training.prefix import Prefix
from hfadapt.training.rows import PLACE, SERVED, Rows
from hfadapt.training.store import WHOLE, Store, make_room, touch

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_BYTES_PER_SECOND = 1e9
"""What a disk whose pages are in memory gives, and takes, at least."""
_CLEARLY = 2
"""Where keeping is so many times as fast as computing again, it is timed but once."""
_LOOKED_AT = 256
"""Rows among which short and long ones are sought to try the cache on."""
_SNAPSHOT = "cache.npy"
STREAMED = "training rows are read as a stream"
"""Why there is no cache where they are."""


def home() -> Path:
    """The folder of all caches."""
    root = (
        os.environ.get("HFADAPT_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hfadapt"
    )
    return Path(root) / "prefixes"


class Cache(TrainerCallback):
    """Stands between batches and the model: a batch whose rows are all kept skips the prefix, another one fills it."""

    def __init__(self, prefix: Prefix, store: Store, key: str, device: torch.device):
        self.prefix, self.store, self.key, self.device = prefix, store, key, device
        self.leaves = list(prefix.kept.items())
        self.fills = True

    @contextmanager
    def around(self, inputs: dict[str, Any]) -> Iterator[None]:
        """While the model is called with the inputs, from which what concerns the cache is taken out."""
        places, served = inputs.pop(PLACE), inputs.pop(SERVED)
        length = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
        if served.all():
            wanted = [length if leaf.along and not leaf.first else None for _, leaf in self.leaves]
            found = self.store.read(places, wanted)
            values = {
                key: tensor.to(self.device, leaf.dtype, non_blocking=True)
                for (key, leaf), tensor in zip(self.leaves, found, strict=True)
            }
            with self.prefix.replaying(values, len(places), length):
                yield
            return
        with self.prefix.capturing() as seen:
            yield
        fit = all(key in seen and seen[key].shape[1:] == leaf.of(1, length, kept=True)[1:] for key, leaf in self.leaves)
        # A batch of a form that nobody expected is computed, and every one after it, rather than kept wrongly.
        self.fills &= fit
        if self.store.whole or not self.fills:
            return
        mask = inputs.get("attention_mask")
        counts = mask.sum(-1).cpu().numpy() if mask is not None else np.full(len(places), length)
        lengths = [counts if leaf.along and not leaf.first else None for _, leaf in self.leaves]
        self.store.write(places, [seen[key] for key, _ in self.leaves], lengths)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        """Let a checkpoint know what is kept, so that a run that goes on finds the very same."""
        if not self.store.whole and state.is_world_process_zero:
            self.store.flush()
            np.save(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / _SNAPSHOT, self.store.filled)

    def close(self) -> None:
        """At the end of a stage: the store is sealed where every row is there; a draft is of no use to anybody."""
        state = PartialState()
        state.wait_for_everyone()
        if state.is_main_process and not self.store.whole:
            if bool(self.store.filled.all()):
                self.store.seal(home() / self.key, {"rows": len(self.store.filled)})
            else:
                shutil.rmtree(self.store.folder, ignore_errors=True)


def refusal(
    options: Options, settled: Mapping[str, Any], visits: float, *, drawn: bool, varies: bool, elusive: bool
) -> str:
    """Why there is no cache for a stage, as far as the plan tells; empty where there may be one.

    visits: how often the stage sees each row; drawn: whether rows are drawn with replacement; varies: whether a
    training row is another one in each epoch; elusive: whether more than its picture is.
    """
    if options.use == "off":
        return "the recipe wants none"
    if says := remade(settled):
        return says
    if elusive:
        return "training rows are mixed, or their texts drawn, anew in each epoch"
    if varies and not options.views:
        return "training rows are another one in each epoch; `cache.views` keeps some of each"
    if options.use == "auto" and (visits <= 1 or drawn):
        return "a row is seen once" if visits <= 1 else "rows are drawn with replacement"
    return ""


def open_cache(
    model: nn.Module,
    rows: Sequence[Rows],
    collate: Callable[[list[dict[str, Any]]], dict[str, Any]],
    *,
    reads: Sequence[str],
    options: Options,
    visits: float,
    run: Path,
    checkpoint: Path | None,
) -> tuple[Cache | None, str]:
    """The cache for a stage whose parameters require gradients already, if there is one, and why.

    rows: those to train on and to validate by; visits: how often the stage sees each of the former;
    run: a folder of this run, which names its draft; checkpoint: where the stage goes on from.
    """
    device = next(model.parameters()).device
    batches, places = samples(rows[0], collate, device)
    try:
        found = below.find(model, batches[:2], reads)
        if isinstance(found, str):
            return None, found
        if below.differs(found, batches[0], batches[2], places, reads):
            return None, "kept tensors gave other answers than the model"
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
        # Whatever a model of any kind does with its modules' outputs, a run must not end of it.
        return None, f"the model does not go without what lies below: {one_line(str(error))[:200]}"
    longest = _longest(rows) if any(leaf.along for leaf in found.kept.values()) else 0
    views = options.views if rows[0].varies and options.views else 1
    total = views * len(rows[0]) + sum(len(its) for its in rows[1:])
    shapes = [_shape(leaf, longest) for leaf in found.kept.values()]
    size = sum(int(np.prod(shape)) for shape in shapes) * _DTYPES[options.dtype].itemsize
    few = batches[0] if "input_ids" in batches[0] else batches[1]
    pays, says = _pays(found, few, reads, size, visits)
    key = _key(model, found, rows, options)
    whole = (home() / key / WHOLE).exists()
    # Timings differ, and folders change; all processes do what the first one finds.
    pays, whole, says = agreed((pays, whole, says))
    if options.use == "auto" and not pays and not whole:
        return None, f"computing again is as fast: {says}"
    most = int(options.most * 2**30)
    if size * total > most:
        return None, f"it would take up to {size * total / 2**30:.1f} GiB, and `cache.most` is {options.most:g}"
    if whole and PartialState().is_main_process:
        touch(home() / key)
    folder = home() / key if whole else _draft(key, shapes, total, options, run, checkpoint, most, size * total)
    store = Store(folder, shapes, total, _DTYPES[options.dtype])
    begin = 0
    for its in rows:
        its.keep(store.filled, begin, views if its is rows[0] else 1)
        begin += (views if its is rows[0] else 1) * len(its)
    return Cache(found, store, key, device), says


def agreed(value: Any) -> Any:
    """What the first process says."""
    from accelerate.utils import broadcast_object_list

    box = [value]
    if PartialState().num_processes > 1:
        broadcast_object_list(box)
    return box[0]


def remembered(path: Path, again: bool, find: Callable[[], list[Any]]) -> list[Any]:
    """What the first process finds, noted in a file, from which a run that goes on has it again.

    What is timed comes out otherwise each time, and a run that goes on has to do as before. path: of a JSON file;
    again: whether the run goes on.
    """
    found = agreed(json.loads(path.read_text(encoding="utf-8")) if again and path.exists() else find())
    if PartialState().is_main_process:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found), encoding="utf-8")
    return list(found)


def _draft(
    key: str,
    shapes: Sequence[tuple[int, ...]],
    rows: int,
    options: Options,
    run: Path,
    checkpoint: Path | None,
    most: int,
    size: int,
) -> Path:
    """The folder of this run's draft of a store, made by the first process: as its checkpoint knew it, else empty."""
    draft = home() / f"{key}.{hashlib.blake2b(str(run.resolve()).encode(), digest_size=6).hexdigest()}"
    if PartialState().is_main_process:
        snapshot = checkpoint / _SNAPSHOT if checkpoint else None
        known = snapshot is not None and snapshot.exists() and draft.exists()
        if not known:
            shutil.rmtree(draft, ignore_errors=True)
        make_room(home(), size, most)
        store = Store(draft, shapes, rows, _DTYPES[options.dtype])
        store.filled[:] = np.load(snapshot) if known else False  # type: ignore[arg-type]
    PartialState().wait_for_everyone()
    return draft


def samples(rows: Rows, collate: Any, device: torch.device) -> tuple[list[dict[str, Tensor]], list[int]]:
    """Batches to try the cache on: four rows, of which two are as short as any; these two; these two turned round; and
    the places of the last ones in the first batch. Of pictures, which are all of one size and take longer, two rows,
    one, and both turned round."""
    looked = range(min(_LOOKED_AT, len(rows)))

    def batch(which: Sequence[int]) -> dict[str, Tensor]:
        made = collate(rows.__getitems__(list(which)))
        return {name: tensor.to(device) for name, tensor in made.items() if name not in ("labels", PLACE, SERVED)}

    if rows.lengths is None and "input_ids" not in (pair := batch([looked[0], looked[-1]])):
        return [pair, batch([looked[-1]]), batch([looked[-1], looked[0]])], [1, 0]
    lengths = rows.lengths if rows.lengths is not None else np.zeros(len(rows))
    order = sorted(looked, key=lambda i: (-lengths[i], i))
    # The longest would take several times as long, and show no more, unless all others are as short as the shortest.
    middle = order[len(order) // 2]
    chosen = [middle if lengths[middle] > lengths[order[-1]] else order[0], order[3 * len(order) // 4], *order[-2:]]
    return [batch(chosen), batch(chosen[2:]), batch(chosen[:1:-1])], [3, 2]


def _longest(rows: Sequence[Rows]) -> int:
    """The most tokens of a row; of rows that are encoded on their visits, the most there may be."""
    first = rows[0]
    if first.visit:
        return first.visit.task.limit(first.visit.processor)
    return max(int(its.lengths.max()) for its in rows if its.lengths is not None)


def _shape(leaf: below.Leaf, longest: int) -> tuple[int, ...]:
    if leaf.first:
        return (1, *leaf.shape[1:])
    return (max(longest, leaf.shape[0]), *leaf.shape[1:]) if leaf.along else leaf.shape


def _pays(
    prefix: Prefix, batch: Mapping[str, Tensor], reads: Sequence[str], size: int, visits: float
) -> tuple[bool, str]:
    """Whether keeping is faster than computing again, timed on a few rows; and a sentence.

    size: bytes of a row at most; visits: of a row.
    """
    rows = len(next(iter(batch.values())))
    length = batch["input_ids"].shape[1] if "input_ids" in batch else 0
    with torch.no_grad(), prefix.capturing() as values:
        prefix.model(**batch)
    whole = rest = math.inf
    cost, pays = size / _BYTES_PER_SECOND, False
    for _ in range(3):
        with torch.no_grad():
            whole = min(whole, seconds(lambda: prefix.model(**batch)))
            rest = min(rest, seconds(lambda: _replayed(prefix, batch, values, rows, length)))
        saved = (whole - rest) / rows
        pays = saved * (visits - 1) > cost * visits
        if saved * (visits - 1) > _CLEARLY * cost * visits and rest * _CLEARLY < whole:
            break
    says = f"what lies below takes {saved / (whole / rows):.0%} of a forward pass, {size / 1024:.0f} KiB a row"
    return pays, says


def seconds(run: Callable[[], object]) -> float:
    """What it takes."""
    began = time.perf_counter()
    run()
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter() - began


def _replayed(prefix: Prefix, batch: Mapping[str, Tensor], values: Any, rows: int, length: int) -> None:
    with prefix.replaying(values, rows, length):
        prefix.model(**batch)


def _key(model: nn.Module, prefix: Prefix, rows: Sequence[Rows], options: Options) -> str:
    """A digest of all that the kept tensors depend on."""
    digest = hashlib.blake2b(digest_size=16)
    about = {
        "kept": [(*key, leaf.shape[1:] if leaf.along else leaf.shape, leaf.first) for key, leaf in prefix.kept.items()],
        "config": json.loads(model.config.to_json_string(use_diff=False)),  # type: ignore[union-attr,operator]
        "processor": [repr(its.visit.processor) for its in rows if its.visit],
        "options": [options.dtype, options.views],
        "versions": [version(name) for name in ("torch", "transformers")],
        "varied": [its.drawn for its in rows],
    }
    digest.update(json.dumps(about, sort_keys=True, default=str).encode())
    for name, module in sorted(prefix.modules.items()):
        for key, tensor in sorted(module.state_dict().items()):
            digest.update(f"{name}.{key}".encode())
            digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    for its in rows:
        _digest_rows(digest, its.table)
    return digest.hexdigest()


def _digest_rows(digest: Any, table: Any) -> None:
    for rows in table.with_format("arrow").iter(1000):
        # What datasets notes beside the rows is another number whenever they are encoded.
        batch = rows.replace_schema_metadata(None)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as stream:
            stream.write_table(batch)
        digest.update(sink.getvalue())
        if "image" in batch.column_names:
            for cell in batch["image"].to_pylist():
                path = cell if isinstance(cell, str) else (cell or {}).get("path") if isinstance(cell, dict) else None
                if path and os.path.exists(path):
                    state = os.stat(path)
                    digest.update(f"{state.st_size}:{state.st_mtime_ns}".encode())
