"""transformers.Trainer where it has no hook: parameter groups, the order of rows, the exact loss."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import seed_worker

from hfadapt.data.labels import Labels
from hfadapt.kind import IGNORED
from hfadapt.scoring.tally import Tally
from hfadapt.tasks.base import Task
from hfadapt.training.rows import Order, Rows

_UNDECAYED = re.compile(r"(^|[._])(bias|norm|position|cls_token|class_embedding|mask_token|logit_scale|layer_scale)")
"""Names that weight decay leaves out, besides every tensor of one dimension."""


class ExactLoss:
    """The sum over a batch's items, divided by the number of items of the whole batch.

    The stock Trainer expects the model to do this; nearly all heads do not, and their loss grows with
    the accumulation steps and processes (https://github.com/huggingface/transformers/issues/47688).
    """

    def __init__(self, task: Task, labels: Labels, weights: np.ndarray | None = None, smoothing: float = 0.0):
        self.task, self.labels, self.smoothing = task, labels, smoothing
        self.weights = None if weights is None else torch.from_numpy(weights)

    def __call__(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        losses = self.each(outputs["logits"], labels)
        items = (labels != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        return losses.sum() / items

    def each(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of each item; see `Task.losses`."""
        weights = None if self.weights is None else self.weights.to(logits.device)
        return self.task.losses(logits, labels, self.labels.kind, weights, self.smoothing)


class StreamedScores:
    """Trainer's `compute_metrics`, batch by batch, so that memory does not grow with the rows."""

    def __init__(self, loss: ExactLoss, tally: Any, needed: str = ""):
        """tally: makes a new, empty Tally; needed: the metric that picks the best checkpoint."""
        self.loss, self.fresh, self.needed = loss, tally, needed
        self.last: Tally | None = None
        self._begin()

    def _begin(self) -> None:
        self.tally: Tally = self.fresh()
        self.total, self.items = 0.0, 0

    def __call__(self, prediction: Any, compute_result: bool = True) -> dict[str, float]:
        logits, targets = prediction.predictions, prediction.label_ids
        losses = self.loss.each(logits.float(), targets)
        self.total += float(losses.double().sum())
        self.items += losses.numel()
        probabilities = self.loss.task.probabilities(logits.float().cpu().numpy(), self.loss.labels.kind)
        self.tally.add(probabilities, targets.cpu().numpy())
        if not compute_result:
            return {}
        values = {name: score.value for name, score in self.tally.scores().items()}
        if self.needed and self.needed != "loss":
            # Equal predictions for all rows have no correlation, say; that must not end the run.
            values.setdefault(self.needed, 0.0)
        # Under this name it replaces the Trainer's own, which is a mean of the batches' means.
        values["loss"] = self.total / self.items
        self.last = self.tally
        self._begin()
        return values


class StageTrainer(Trainer):
    """Trains what a stage names, at its speeds, over the rows in the given order."""

    def __init__(
        self,
        *,
        args: TrainingArguments,
        loss: ExactLoss,
        speeds: Mapping[str, float],
        strategy: str,
        seed: int,
        chances: np.ndarray | None = None,
        moments: Mapping[str, dict[str, Any]] | None = None,
        **rest: Any,
    ):
        """speeds: factors on the learning rate by parameter name; strategy: the `train_sampling_strategy`,
        which the Trainer itself must not see, for it would order the rows to evaluate by it too;
        chances: of the rows, (rows,); moments: optimizer state of an earlier stage by parameter name."""
        self.speeds, self.strategy, self.order_seed, self.chances = speeds, strategy, seed, chances
        self.moments = dict(moments or {})
        self.optimizer: torch.optim.Optimizer | None
        super().__init__(args=args, compute_loss_func=loss, **rest)

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
        together = arguments.train_batch_size * arguments.world_size
        order = Order(
            rows,
            strategy=self.strategy,
            batch=together * arguments.gradient_accumulation_steps,
            together=together if arguments.world_size > 1 else 1,
            seed=self.order_seed,
            # Upstream's set_epoch does not reach a sampler behind a resumed, sharded loader.
            epoch=lambda: int(self.state.epoch or 0),
            weights=self.chances,
        )
        loader: DataLoader[Any] = DataLoader(
            rows,
            batch_size=arguments.train_batch_size,
            sampler=order,
            collate_fn=self.data_collator,
            drop_last=arguments.dataloader_drop_last,
            num_workers=arguments.dataloader_num_workers,
            pin_memory=arguments.dataloader_pin_memory,
            persistent_workers=arguments.dataloader_persistent_workers,
            prefetch_factor=arguments.dataloader_prefetch_factor,
            worker_init_fn=partial(
                seed_worker, num_workers=arguments.dataloader_num_workers, rank=arguments.process_index
            ),
        )
        return self.accelerator.prepare(loader)  # type: ignore[no-any-return]
