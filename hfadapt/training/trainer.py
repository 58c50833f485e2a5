"""transformers.Trainer where it has no hook: parameter groups, the order of rows, the exact loss."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer_utils import seed_worker
from transformers.utils import SAFE_WEIGHTS_NAME

from hfadapt.data.labels import Labels
from hfadapt.kind import IGNORED
from hfadapt.methods.base import Term
from hfadapt.scoring.tally import Tally
from hfadapt.tasks.base import Task
from hfadapt.training.caching import Cache
from hfadapt.training.gathering import gathered
from hfadapt.training.packing import of_lengths
from hfadapt.training.painting import Painter
from hfadapt.training.rows import LENGTHS, ByLength, Order, Rows, TokenBatches
from hfadapt.training.streaming import StreamedRows

_UNDECAYED = re.compile(
    r"(^|[._])(bias|norm|grn|position|wpe|rel_embeddings|(cls|mask|distillation|register)_tokens?|class_embedding|probe"
    r"|logit_scale|layer_scale)"
)
"""Names that weight decay leaves out, besides every tensor of one dimension: norms, biases, scales, positions, and
tokens of the model's own."""


class ExactLoss:
    """The sum over a batch's items, divided by the number of items of the whole batch.

    The stock Trainer expects the model to do this; nearly all heads do not, and their loss grows with
    the accumulation steps and processes (https://github.com/huggingface/transformers/issues/47688).
    """

    def __init__(
        self,
        task: Task,
        labels: Labels,
        weights: np.ndarray | None = None,
        smoothing: float = 0.0,
        model: nn.Module | None = None,
    ):
        """weights: a factor for each label, (labels,); model: owns the parameters that the task reads."""
        self.task, self.labels, self.smoothing, self.model = task, labels, smoothing, model
        self.weights = None if weights is None else torch.from_numpy(weights)
        self.terms: Sequence[Term] = ()
        self.inputs: Mapping[str, Tensor] | None = None
        """What the model was called with, while it trains; the terms read it."""

    def on(self, model: nn.Module) -> ExactLoss:
        """The same loss, for a model."""
        bound = copy.copy(self)
        bound.model = model
        return bound

    def __call__(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        found = {name: outputs[name] for name in self.task.reads}
        whole = None
        if self.task.contrasts:
            whole = {name: gathered(tensor) for name, tensor in found.items()}, gathered(labels)
        losses = self.each(found, labels, whole)
        here = (labels != IGNORED).sum()
        items = here if num_items_in_batch is None else num_items_in_batch
        loss = losses.sum() / items
        if self.inputs is not None:
            # A batch is one of those that accumulation and processes divide a step into.
            loss = loss + sum(_mean(term(self.inputs, outputs), labels) for term in self.terms) * here / items
        return loss

    def each(
        self, found: Mapping[str, Tensor], labels: Tensor, whole: tuple[Mapping[str, Tensor], Tensor] | None = None
    ) -> Tensor:
        """The loss of each item; see `Task.losses`."""
        weights = None if self.weights is None else self.weights.to(labels.device)
        own = {name: getattr(self.model, name) for name in self.task.parameters if hasattr(self.model, name)}
        found = {**found, **own}
        return self.task.losses(found, labels, self.labels.kind, weights, self.smoothing, whole=whole)


def _mean(values: Tensor, labels: Tensor) -> Tensor:
    """The mean of a term over the rows that count; labels: (rows,) or (rows, items)."""
    if values.ndim == 0:
        return values
    counted = (labels != IGNORED).reshape(len(labels), -1).any(-1)
    return torch.where(counted, values.float(), 0.0).sum() / counted.sum().clamp(min=1)


class StreamedScores:
    """Trainer's `compute_metrics`, batch by batch, so that memory does not grow with the rows.

    Rows are counted in their own order, also where they come by length.
    """

    def __init__(self, loss: ExactLoss, tally: Any, needed: str = "", worst: int = 0):
        """tally: makes a new, empty Tally; needed: the metric that picks the best checkpoint;
        worst: how many of the rows with the greatest loss are remembered, where a row has one label."""
        self.loss, self.fresh, self.needed = loss, tally, needed
        self.most = worst if loss.labels.kind == "label" else 0
        self.last: Tally | None = None
        self.worst: list[Miss] = []
        self.begin()

    def begin(self, rows: ByLength | None = None) -> None:
        """Forget what was counted; rows: in which order they come, if not in their own."""
        self.came = rows
        self.waiting: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.tally: Tally = self.fresh()
        self.total, self.items, self.rows = 0.0, 0, 0
        self.misses: list[Miss] = []

    def __call__(self, prediction: Any, compute_result: bool = True) -> dict[str, float]:
        tensors, targets = prediction.predictions, prediction.label_ids
        found = dict(zip(self.loss.task.reads, tensors if isinstance(tensors, tuple) else [tensors], strict=True))
        with torch.no_grad():
            losses = self.loss.each({name: tensor.float() for name, tensor in found.items()}, targets)
        self.total += float(losses.double().sum())
        self.items += losses.numel()
        arrays = {name: tensor.float().cpu().numpy() for name, tensor in found.items()}
        predicted = self.loss.task.predictions(arrays, self.loss.labels.kind)
        self.waiting.append((predicted, losses.cpu().numpy(), targets.cpu().numpy()))
        if compute_result or not self.came or sum(len(its) for _, _, its in self.waiting) >= self.came.stretch:
            self._count()
        if not compute_result:
            return {}
        values = {name: score.value for name, score in self.tally.scores().items()}
        if self.needed and self.needed != "loss":
            # Equal predictions for all rows have no correlation, say; that must not end the run.
            values.setdefault(self.needed, 0.0)
        # Under this name it replaces the Trainer's own, which is a mean of the batches' means.
        values["loss"] = self.total / self.items
        self.last, self.worst = self.tally, self.misses
        self.begin()
        return values

    def _count(self) -> None:
        """Count the rows that wait: a stretch of them, or a batch."""
        (predicted, losses, targets), *more = self.waiting
        self.waiting = []
        if self.came:
            whole = zip((predicted, losses, targets), *more, strict=True)
            predicted, losses, targets = (np.concatenate(its) for its in whole)
            back = np.argsort(self.came.order[self.rows : self.rows + len(targets)])
            predicted, losses, targets = predicted[back], losses[back], targets[back]
        self.tally.add(predicted, targets)
        if self.most:
            self._remember(predicted, losses, targets)
        self.rows += len(targets)

    def _remember(self, predicted: np.ndarray, losses: np.ndarray, targets: np.ndarray) -> None:
        """Keep the wrong answers with the greatest loss. The rows come in their order, on any number of processes."""
        answered = predicted.argmax(-1)
        for i in np.flatnonzero(answered != targets).tolist():
            miss = Miss(float(losses[i]), self.rows + i, int(targets[i]), int(answered[i]), float(predicted[i].max()))
            self.misses.append(miss)
        self.misses = sorted(self.misses, key=lambda miss: -miss.loss)[: self.most]


class Miss(NamedTuple):
    """A row that was answered wrongly."""

    loss: float
    row: int
    true: int
    answered: int
    probability: float
    """Of the answer."""


def one_device(arguments: TrainingArguments) -> None:
    """Have a process train on one device.

    Trainer would divide its batches among all GPUs that it sees (DataParallel), copying the model at each step: the
    plan counted one, and copies know nothing of what stands in for parts of the model. A process a GPU is faster.
    """
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1


class ExactTrainer(Trainer):
    """A Trainer with the exact loss, whose predictions are what the task reads and nothing else."""

    def __init__(self, *, model: nn.Module, loss: ExactLoss, **rest: Any):
        self.exact = loss.on(model)
        self.cache: Cache | None = None
        one_device(rest["args"])
        super().__init__(model=model, compute_loss_func=self.exact, **rest)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The loss, and perhaps the outputs that the task reads, in its order."""
        lengths = inputs.pop(LENGTHS, None)
        shown = {name: value for name, value in inputs.items() if name != "labels"}
        self.exact.inputs = shown if self.exact.terms and model.training else None
        with of_lengths(lengths), self.cache.around(inputs) if self.cache else nullcontext():
            loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        kept = {name: outputs[name] for name in self.exact.task.reads}
        return (loss, kept) if return_outputs else loss

    def evaluate(self, eval_dataset: Any = None, *args: Any, **rest: Any) -> dict[str, float]:
        """Rows with lengths come by length, and are counted in their own order."""
        rows, scores = self.eval_dataset if eval_dataset is None else eval_dataset, self.compute_metrics
        if isinstance(rows, Rows) and rows.lengths is not None and isinstance(scores, StreamedScores):
            eval_dataset = ByLength(rows, self.args.eval_batch_size * self.args.world_size)
            scores.begin(eval_dataset)
        return super().evaluate(eval_dataset, *args, **rest)


class StageTrainer(ExactTrainer):
    """Trains what a stage names, at its speeds, over the rows in the given order."""

    def __init__(
        self,
        *,
        args: TrainingArguments,
        speeds: Mapping[str, float],
        strategy: str,
        seed: int,
        earlier: int = 0,
        chances: np.ndarray | None = None,
        moments: Mapping[str, dict[str, Any]] | None = None,
        drop_last: bool = False,
        tokens: int = 0,
        batches: int = 0,
        terms: Sequence[Term] = (),
        **rest: Any,
    ):
        """speeds: factors on the learning rate by parameter name; strategy: the `train_sampling_strategy`;
        drop_last: the `dataloader_drop_last`. The Trainer itself must not see these two, for it would order
        the rows to evaluate, and drop some, too;
        earlier: epochs of earlier stages; chances: of the rows, (rows,);
        tokens: the budget of a batch, and batches: how many of it an epoch has, where there is one;
        moments: optimizer state of an earlier stage by parameter name; terms: what is added to the loss."""
        self.speeds, self.strategy, self.order_seed, self.chances = speeds, strategy, seed, chances
        self.moments, self.earlier, self.drop_last = dict(moments or {}), earlier, drop_last
        self.tokens, self.batches = tokens, batches
        self.optimizer: torch.optim.Optimizer | None
        self.painter: Painter | None = None
        super().__init__(args=args, **rest)
        self.exact.terms = terms
        if self.accelerator.ddp_handler:
            # Gradients lie where they are exchanged from, and are not copied to and fro.
            self.accelerator.ddp_handler.gradient_as_bucket_view = True

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Groups by speed and weight decay; Adam's moments go on where an earlier stage left them."""
        if self.optimizer is not None:
            return self.optimizer
        groups: dict[tuple[float, bool], list[torch.nn.Parameter]] = {}
        named = {n: p for n, p in (model or self.model).named_parameters() if p.requires_grad}
        for name, parameter in named.items():
            decays = parameter.ndim > 1 and not _UNDECAYED.search(name.lower())
            groups.setdefault((self.speeds.get(name, 1.0), decays), []).append(parameter)
        kind, options = self.get_optimizer_cls_and_kwargs(self.args, model or self.model)
        base = options.pop("lr", self.args.learning_rate)
        listed = [
            {"params": parameters, "lr": base * speed, "weight_decay": self.args.weight_decay if decays else 0.0}
            for (speed, decays), parameters in sorted(groups.items(), key=lambda g: (-g[0][0], g[0][1]))
        ]
        optimizer: torch.optim.Optimizer = kind(listed, lr=base, **options)
        for name in named.keys() & self.moments.keys():
            optimizer.state[named[name]] = {
                key: value.clone() if isinstance(value, Tensor) else value for key, value in self.moments[name].items()
            }
        self.optimizer = optimizer
        return optimizer

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save what moves, and the buffers, under the names that they have in this model.

        All else is what the stage began with, which a run that goes on builds anew. transformers would write ViT's
        parameters and others' under the names of its version 4, and its Trainer reads a checkpoint back without
        translating: blocks would silently stay as they are.
        """
        model: Any = self.model
        if not isinstance(model, PreTrainedModel) or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super().save_model(output_dir, _internal_call)
        elif self.args.should_save:
            folder = Path(str(output_dir or self.args.output_dir))
            folder.mkdir(parents=True, exist_ok=True)
            still = {n for n, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}
            known = {n for n, _ in model.named_parameters()} | {n for n, _ in model.named_buffers()}
            kept = {n: tensor.contiguous() for n, tensor in model.state_dict().items() if n in known - still}
            save_file(kept, folder / SAFE_WEIGHTS_NAME, metadata={"format": "pt"})

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *rest: Any) -> Tensor:
        """Pictures that are still to be finished are, in full precision, before the model is called with them."""
        if self.painter:
            self.painter(inputs)
        return super().training_step(model, inputs, *rest)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: Trainer's count takes frozen, kept and padded parts for computed ones, and goes through all
        modules at every step to get it."""
        return 0

    def moments_by_name(self) -> dict[str, dict[str, Any]]:
        """The optimizer's state of every parameter that this or an earlier stage moved."""
        state = self.optimizer.state if self.optimizer is not None else {}
        now = {n: dict(state[p]) for n, p in self.model.named_parameters() if p in state}
        return self.moments | now

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches of the rows in `Order`, dealt out to the processes by Accelerate."""
        rows = self.train_dataset
        assert isinstance(rows, Rows)
        arguments = self.args
        if self.tokens:
            return self._in_tokens(rows)
        together = arguments.train_batch_size * arguments.world_size
        order = Order(
            rows,
            strategy=self.strategy,
            batch=together * arguments.gradient_accumulation_steps,
            together=together if arguments.world_size > 1 else 1,
            seed=self.order_seed,
            # Upstream's set_epoch does not reach a sampler behind a resumed, sharded loader.
            epoch=lambda: int(self.state.epoch or 0),
            processes=arguments.world_size,
            weights=self.chances,
            earlier=self.earlier,
        )
        loader: DataLoader[Any] = DataLoader(
            rows,
            batch_size=arguments.train_batch_size,
            sampler=rows.places if isinstance(rows, StreamedRows) else order,
            drop_last=self.drop_last,
            **self._loading(),
        )
        return self.accelerator.prepare(loader)  # type: ignore[no-any-return]

    def _in_tokens(self, rows: Rows) -> DataLoader[Any]:
        """Batches within the budget of tokens; each process makes its own of them."""
        arguments = self.args
        order = TokenBatches(
            rows,
            tokens=self.tokens,
            batches=self.batches,
            processes=arguments.world_size,
            process=arguments.process_index,
            together=arguments.world_size * arguments.gradient_accumulation_steps,
            seed=self.order_seed,
            epoch=lambda: int(self.state.epoch or 0),
        )
        loader: DataLoader[Any] = DataLoader(rows, batch_sampler=order, **self._loading())
        # Accelerate would deal the batches out once more.
        return prepare_data_loader(
            loader, self.accelerator.device, num_processes=1, process_index=0, put_on_device=True, rng_types=None
        )

    def _loading(self) -> dict[str, Any]:
        """How batches are read."""
        arguments = self.args
        return {
            "collate_fn": self.data_collator,
            "num_workers": arguments.dataloader_num_workers,
            "pin_memory": arguments.dataloader_pin_memory,
            "persistent_workers": arguments.dataloader_persistent_workers,
            "prefetch_factor": arguments.dataloader_prefetch_factor,
            "worker_init_fn": partial(
                seed_worker, num_workers=arguments.dataloader_num_workers, rank=arguments.process_index
            ),
        }
