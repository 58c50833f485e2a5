"""What a run will cost on this machine: counted on the model without weights, timed on one block of it."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import psutil
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedConfig

from hfadapt import settings
from hfadapt.backbones.base import anatomy
from hfadapt.judging import encode_rows
from hfadapt.keeping import pictures, prefixes, unused
from hfadapt.metering import Counts, count
from hfadapt.methods.base import Stage
from hfadapt.noise import quiet
from hfadapt.training.freezing import only
from hfadapt.training.rows import Order, Rows
from hfadapt.training.stages import steps_of

if TYPE_CHECKING:
    from hfadapt.planning import Plan

_MOMENTS = {"sgd": 0, "adafactor": 0, "adagrad": 1, "rmsprop": 1, "lion": 1}
"""Tensors that an optimizer keeps for each parameter, by a word of its name; Adam and its kin keep two."""
_LATER = 85_000_000
"""Bytes that a process gains after planning: the baselines' imports, encoded rows, the training loop."""
_HOLES = 0.55
"""The part of the tensors that a forward pass lets go whose memory lies idle until the backward pass ends: glibc
puts no aligned block into a hole of its own size. Measured on BERT and MiniLM: 0.5 to 0.9."""
_READ = 16
"""Rows that are read to time the reading."""
_PER_RUN, _PER_BATCH = 0.8, 0.01
"""Seconds of the loop: to begin and to bootstrap the scores; to read and pad a batch."""
_PER_NEW_BYTE, _PER_SAVED_BYTE = 2e-9, 2.5e-9
"""Seconds to touch memory for the first time; to write a checkpoint to the page cache and to digest it."""


@dataclass(frozen=True)
class Estimate:
    """What a run will cost."""

    seconds: float
    """Of the steps, evaluations and checkpoints of all stages, and of the final scores."""
    memory: int
    """Bytes at the peak: of the process on a CPU, of the device's allocations elsewhere."""
    basis: str
    """What was measured and how it was scaled; one sentence."""


@dataclass(frozen=True)
class Batches:
    """The batches of a split, if its rows are as long as the training rows that planning looked at."""

    rows: int
    size: int
    """Rows of a full batch."""
    mean: float
    """Of the rows' lengths after padding."""
    longest: int

    def seconds(self, token: float, read: float = 0.0) -> float:
        """To compute all rows once; token: seconds for a token, read: seconds to encode a row on its visit."""
        return self.rows * (self.mean * token + read) + math.ceil(self.rows / self.size) * _PER_BATCH


def batches(plan: Plan, split: str, processes: int = 1) -> Batches:
    """What one process computes at a time on a split."""
    settled, rows, trains = plan.settled, len(plan.data.splits[split]), split == "train"
    lengths = np.asarray(plan.lengths.sample if plan.lengths else [1])
    if trains and (most := settled.get(settings.MAX_TOKENS)):
        # As if all batches were full, and of one form.
        size = math.ceil(rows / settled[settings.BATCHES])
        return Batches(rows, size, min(most / size, float(lengths.max())), min(most // size, int(lengths.max())))
    size = min(settled[f"per_device_{'train' if trains else 'eval'}_batch_size"], rows)
    order = Order(
        Rows(lengths, lengths),
        strategy=str(settled.get("train_sampling_strategy")) if trains else "random",
        batch=size * processes * settled.get("gradient_accumulation_steps", 1),
        together=1,
        seed=settled["seed"],
        epoch=lambda: 0,
    )
    parts = np.split(lengths[order.visit(0)], range(size, len(lengths), size))
    padded = sum(len(part) * int(part.max()) for part in parts)
    return Batches(rows, size, padded / len(lengths), int(lengths.max()))


def shortened(config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration of the same model with one block and few words; all blocks where it does not count them."""
    short = copy.deepcopy(config)
    for tower in (short, *(its for its in vars(short).values() if isinstance(its, PreTrainedConfig))):
        if blocks := getattr(tower, "num_hidden_layers", None):
            for name, value in vars(tower).items():
                if isinstance(value, list) and len(value) == blocks:
                    setattr(tower, name, value[:1])
            tower.num_hidden_layers = 1
        if getattr(tower, "vocab_size", 0) > 1000:
            tower.vocab_size = 1000
            # An embedding refuses a padding id that is no word of its own.
            tower.pad_token_id = min(tower.pad_token_id or 0, 999)
    return short


class Probe:
    """Runs a plan's model on a device with random weights, or on imagined tensors without any."""

    def __init__(self, plan: Plan, device: torch.device):
        self.plan, self.device, self.fake = plan, device, FakeTensorMode()
        self.example: dict[str, Tensor] = plan.recipe.task.collator(plan.processor)([self.rows(1)[0]])
        with torch.device("meta"):
            self.imagined = self.model(plan.config)
        with self.fake:
            _imagine(self.imagined, device)

    def rows(self, number: int) -> Rows:
        """The first training rows."""
        plan, number = self.plan, min(number, len(self.plan.data.splits["train"]))
        first = plan.data.splits["train"].select(range(number))
        return encode_rows(plan.recipe.task, plan.processor, first, plan.data.labels, trains=True)

    def model(self, config: PreTrainedConfig) -> nn.Module:
        """The wrapped model of a configuration."""
        recipe, config = self.plan.recipe, copy.deepcopy(config)
        if recipe.model.attn_implementation:
            config._attn_implementation = recipe.model.attn_implementation
        bare = recipe.task.bare(config).to(getattr(torch, recipe.model.dtype))
        if self.plan.settled.get("activation_checkpointing"):
            bare.activation_checkpointing_enable()
        return recipe.adapt.wrap(bare, anatomy(bare, self.plan.anatomy.head))

    def batch(self, rows: int, length: int) -> dict[str, Tensor]:
        """A batch like the collator's, of any size. All ids are 0, which every vocabulary has."""
        made: dict[str, Tensor] = {}
        for name, tensor in self.example.items():
            sizes: tuple[int, ...] = tensor.shape[1:]
            if self.plan.lengths and tensor.ndim == 2 and name != "labels":
                sizes = (length,)
            made[name] = torch.zeros((rows, *sizes), dtype=tensor.dtype, device=self.device)
            if name.endswith("mask"):
                # One place stays padding: without any, models leave the mask out.
                made[name].flatten()[:-1] = 1
        return made

    def objective(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """What training minimises, but for its scale."""
        settled, task, kind = self.plan.settled, self.plan.recipe.task, self.plan.data.labels.kind
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}
        dtype = next((dtype for name, dtype in half.items() if settled.get(name)), None)
        with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
            outputs = model(**{name: tensor for name, tensor in batch.items() if name != "labels"})
        found = {name: outputs[name] for name in task.reads}
        found |= {name: getattr(model, name) for name in task.parameters if hasattr(model, name)}
        return task.losses(found, batch["labels"], kind).sum()

    def counts(self, rows: int, length: int, stage: Stage | None = None) -> Counts:
        """What a batch takes, on imagined tensors; without a stage, what scoring it takes."""
        model = self.imagined
        with self.fake, only(model, stage.speeds if stage else ()), torch.set_grad_enabled(stage is not None):
            model.train(stage is not None)
            batch = self.batch(rows, length)
            return count(model, lambda: self.objective(model, batch))

    def timed(self, model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[float, float]:
        """Seconds of a forward pass and, where gradients are enabled, of a backward pass."""
        began = self.now()
        value = self.objective(model, batch)
        between = self.now()
        if value.requires_grad:
            value.backward()
        model.zero_grad()
        return between - began, self.now() - between

    def now(self) -> float:
        """A clock that waits for the device."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter()


def _imagine(model: nn.Module, device: torch.device) -> None:
    """Let a model on the meta device claim to be on another, under a FakeTensorMode.

    Meta tensors would take other kernels, which keep other tensors for the backward pass.
    """
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is None:
                    continue
                empty = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
                if isinstance(tensor, nn.Parameter):
                    empty = nn.Parameter(empty, tensor.requires_grad)
                held[name] = made.setdefault(id(tensor), empty)  # type: ignore[index,assignment]


@dataclass(frozen=True)
class Pace:
    """Seconds for an operation of each kind on this device, and for a parameter's update."""

    still: float
    forward: float
    backward: float
    updated: float
    basis: str

    def seconds(self, counts: Counts) -> float:
        """What both passes take."""
        return self.still * counts.still + self.forward * counts.forward + self.backward * counts.backward


def pace(probe: Probe, train: Batches, trainable: int) -> Pace:
    """Timed on a model with one block, on enough rows of the mean length; trainable: parameters."""
    model = probe.model(shortened(probe.plan.config)).to(probe.device).train()
    length = round(train.mean)
    # Fewer tokens would run slower for each; more would take long on a CPU and be no faster.
    rows = min(train.size, max(1, 1024 // length)) if probe.device.type == "cpu" else train.size
    batch = probe.batch(rows, length)
    counts = count(model, lambda: probe.objective(model, batch))
    began, used = time.perf_counter(), time.process_time()
    forward, backward = _quickest(lambda: probe.timed(model, batch))
    with torch.no_grad():
        model.eval()
        still, _ = _quickest(lambda: probe.timed(model, batch))
    had = (time.process_time() - used) / (time.perf_counter() - began) / torch.get_num_threads()
    operations = counts.still + counts.forward
    speeds = f"{operations / forward / 1e9:.0f} and {counts.backward / backward / 1e9:.0f} GFLOP/s"
    batched = f"{rows} x {length} tokens" if probe.plan.lengths else f"{rows} rows"
    basis = f"one block went forward and back over {batched} at {speeds}"
    if probe.device.type == "cpu" and had < 0.7:
        basis += f" (other programs left it {had:.0%} of the processor's time; alone it is faster)"
    updated = _update_seconds(probe, trainable)
    return Pace(still / operations, forward / operations, backward / counts.backward, updated, basis)


def reading(probe: Probe) -> float:
    """Seconds to decode, vary and encode a row on its visit; 0 where all rows are encoded before."""
    if not probe.plan.recipe.task.lazy:
        return 0.0
    rows = probe.rows(_READ)

    def read() -> tuple[float]:
        began = time.perf_counter()
        rows.__getitems__(range(len(rows)))
        return (time.perf_counter() - began,)

    return _quickest(read)[0] / len(rows)


def _update_seconds(probe: Probe, trainable: int) -> float:
    """Seconds of an optimizer's step for each parameter, on as many as overflow the caches."""
    number = min(8, 1 + (trainable >> 20))
    pieces = [nn.Parameter(torch.zeros(1 << 20, device=probe.device)) for _ in range(number)]
    optimizer = torch.optim.AdamW(pieces, fused=True)

    def step() -> tuple[float]:
        began = probe.now()
        for piece in pieces:
            piece.grad = torch.zeros_like(piece)
        nn.utils.clip_grad_norm_(pieces, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return (probe.now() - began,)

    return _quickest(step)[0] / (number << 20)


def _quickest(measure: Callable[[], tuple[float, ...]]) -> list[float]:
    """The least of what is measured at least three times, and for half a second: other programs only slow it."""
    found, began = [measure()], time.perf_counter()
    while len(found) < 3 or time.perf_counter() - began < 0.5:
        found.append(measure())
    return [min(values) for values in zip(*found, strict=True)]


def visits(plan: Plan, steps: int, processes: int) -> tuple[int, int]:
    """How many evaluations and, at the most, how many checkpoints a stage of some steps comes to."""
    settled = plan.settled
    epochs = math.ceil(steps / settings.steps_per_epoch(settled, len(plan.data.splits["train"]), processes))

    def times(strategy: object, every: float, best: int = 0) -> int:
        # Below 1 it is a part of the steps; the last step counts whatever is left over.
        apart = every if every >= 1 else math.ceil(steps * every)
        return {"no": 0, "epoch": epochs, "steps": math.ceil(steps / apart)}.get(str(strategy), best)

    evaluations = times(settled["eval_strategy"], settled.get("eval_steps") or settled.get("logging_steps", 500))
    return evaluations, times(settled["save_strategy"], settled.get("save_steps", 500), evaluations)


def _stored(probe: Probe, moved: Collection[str], idle: Mapping[str, int]) -> tuple[int, int]:
    """Bytes of a checkpoint's weights, which are those that moved, and of the optimizer's state.

    idle: elements of each parameter that have none.
    """
    plan, item = probe.plan, getattr(torch, probe.plan.recipe.model.dtype).itemsize
    optimizer = str(plan.settled.get("optim", "adamw"))
    each = next((number for word, number in _MOMENTS.items() if word in optimizer), 2)
    elements = sum(plan.sizes[name] for name in moved)
    return elements * item, each * (elements - _within(idle, moved)) * item


def _within(idle: Mapping[str, int], names: Collection[str]) -> int:
    """The idle elements of these parameters."""
    return sum(number for name, number in idle.items() if name in names)


def _stage_memory(
    probe: Probe, stage: Stage, train: Batches, moved: Collection[str], idle: Mapping[str, int], processes: int
) -> int:
    """Bytes of a stage besides the weights."""
    counts = probe.counts(train.size, train.longest, stage)
    saved, moments = _stored(probe, moved, idle)
    without = _within(idle, stage.speeds)
    # Where several train, each gathers its gradients once more to exchange them.
    step = counts.peak - without * 4 + ((probe.plan.trainable(stage) - without) * 4 if processes > 1 else 0)
    if probe.device.type == "cpu":
        step += int(_HOLES * counts.passing)
        # The best weights are mapped from their file while the heap still has what a step took.
        step += saved if probe.plan.settled["load_best_model_at_end"] else 0
    return moments + step


@quiet()
def estimate(plan: Plan, processes: int = 1) -> Estimate:
    """Measure what a run of the plan will cost; takes a few seconds and reads no weights.

    processes: how many train together on this machine; the memory is that of each. A teacher counts as a model of
    the same size. Not counted: the exchange of gradients between them, what early stopping saves, and
    pretraining. On CUDA the memory leaves out the process's
    own; there it was never compared with a measurement.
    """
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    base = psutil.Process().memory_info().rss + _LATER if device.type == "cpu" else 0
    probe, train = Probe(plan, device), batches(plan, "train", processes)
    validation, test = batches(plan, "validation"), batches(plan, "test")
    speed = pace(probe, train, max(map(plan.trainable, plan.stages), default=0))
    scored, mean = probe.counts(validation.size, validation.longest), round(validation.mean)
    at_mean = scored if mean == validation.longest else probe.counts(validation.size, mean)
    token = speed.seconds(at_mean) / (validation.size * mean)
    read = reading(probe) / max(1, plan.settled.get("dataloader_num_workers", 0))
    extra, moved, methods = scored.peak, set[str](), plan.recipe.adapt.chain
    once = {its.stage: 1 / its.visits for its in prefixes(plan) if its.serves}
    decoded = read / max(1, shown.visits) if (shown := pictures(plan)) and shown.ready else read
    idle = unused(plan, probe.imagined, probe.rows)
    again, still = sum(method.passes for method in methods), probe.counts(train.size, round(train.mean))
    seconds = _PER_RUN + validation.seconds(token, read) + test.seconds(token, read)
    for stage, steps in zip(plan.stages, steps_of(plan.stages, plan.steps), strict=True):
        moved |= stage.speeds.keys()
        counts = probe.counts(train.size, round(train.mean), stage)
        # What lies below all that moves is computed on a row's first visit only, and what is kept decoded is read then.
        reads = min(decoded, read * once.get(stage.name, 1.0))
        paid = replace(counts, still=round(counts.still * once.get(stage.name, 1.0)))
        epoch = train.seconds(speed.seconds(paid) / (train.size * round(train.mean)), reads)
        batch = epoch / math.ceil(train.rows / train.size) + again * speed.seconds(still)
        updated = speed.updated * (plan.trainable(stage) - _within(idle, stage.speeds))
        step = batch * plan.settled.get("gradient_accumulation_steps", 1) + updated
        evaluations, saves = visits(plan, steps, processes)
        # Processes share the cores of a CPU; together they evaluate as fast as one.
        seconds += steps * step * (processes if device.type == "cpu" else 1) + evaluations * validation.seconds(
            token, reads
        )
        seconds += saves * sum(_stored(probe, moved, idle)) * _PER_SAVED_BYTE
        extra = max(extra, _stage_memory(probe, stage, train, moved, idle, processes))
    held = 1 + sum(method.copies for method in methods)
    extra += held * plan.parameters * getattr(torch, plan.recipe.model.dtype).itemsize
    basis = f"{speed.basis}, scaled by the operations of all steps; memory is counted on the longest batch"
    return Estimate(seconds + extra * _PER_NEW_BYTE, base + extra, basis)
