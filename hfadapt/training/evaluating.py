"""Scores of a model on a split, each row counted once on any number of processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from hfadapt.scoring.tally import Score
from hfadapt.training.rows import Rows
from hfadapt.training.trainer import ExactLoss, ExactTrainer, Miss, StreamedScores

_THEIRS = ("per_device_eval_batch_size", "dataloader_num_workers", "dataloader_prefetch_factor", "bf16", "fp16", "tf32")
WORST = 24
"""How many of the worst mistakes are remembered."""


@dataclass(frozen=True)
class Judged:
    """What an evaluation found."""

    scores: dict[str, Score]
    loss: float
    """Of an item, in the mean."""
    confusion: Any
    """True x predicted label, counts; None where a row has not one label."""
    worst: list[Miss]
    """The wrong answers with the greatest loss, the worst first."""
    marks: Any = None
    """What the scores of any part of the rows can be computed from, and
    `by_label` those of each label, where the tally is a `slices.Remembered`."""
    by_label: Mapping[str, Score] = field(default_factory=dict)


def evaluate(
    model: nn.Module,
    rows: Rows,
    *,
    loss: ExactLoss,
    tally: Any,
    collator: Any,
    settled: Mapping[str, Any],
    folder: str,
) -> Judged:
    """How a model does on encoded rows; tally: makes an empty Tally; settled: training arguments, of which those
    that say how rows are loaded and in which precision they are computed count here too."""
    on_device = torch.accelerator.is_available()
    arguments = TrainingArguments(
        **{name: value for name, value in settled.items() if name in _THEIRS},
        output_dir=folder,
        use_cpu=not on_device,
        dataloader_pin_memory=on_device,
        batch_eval_metrics=True,
        remove_unused_columns=False,
        label_names=["labels"],
        disable_tqdm=True,
        report_to="none",
    )
    streamed = StreamedScores(loss.on(model), tally, worst=WORST)
    trainer = ExactTrainer(model=model, args=arguments, data_collator=collator, loss=loss, compute_metrics=streamed)
    for upstream in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(upstream)
    found = trainer.evaluate(rows)  # type: ignore[arg-type]
    assert streamed.last is not None
    last = streamed.last
    return Judged(
        last.scores(),
        found["eval_loss"],
        getattr(last, "confusion", None),
        streamed.worst,
        getattr(last, "marks", None),
        getattr(last, "by_label", {}),
    )
