"""What happens around the steps: events for whoever listens, sealed checkpoints, no hidden NaN."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hfadapt.errors import RunError
from hfadapt.training import checkpoints

Event = dict[str, Any]
Listener = Callable[[Event], None]
"""Receives each event of a run: a dict with `event` (its kind) and what belongs to it."""


class Journal:
    """Writes the events of a run to `log.jsonl` and passes them on; silent but on the first process."""

    def __init__(self, path: Path, listener: Listener | None):
        self.path, self.listener = path, listener
        self.active = PartialState().is_main_process
        self.start = time.monotonic()

    def __call__(self, event: str, *, keep: bool = True, **values: Any) -> None:
        """keep: whether the event goes to the file too."""
        if not self.active:
            return
        record = {"event": event, "seconds": round(time.monotonic() - self.start, 2), **values}
        if keep:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
        if self.listener:
            self.listener(record)


class Watch(TrainerCallback):
    """Reports steps and evaluations of a stage, seals its checkpoints, and stops at a loss that is no number."""

    def __init__(self, journal: Journal, stage: str, done: int, total: int, constrain: Callable[[nn.Module], None]):
        """done: the steps of earlier stages; total: the steps of the whole training;
        constrain: puts parameters back where they must lie."""
        self.journal, self.stage, self.done, self.total, self.constrain = journal, stage, done, total, constrain

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any
    ) -> TrainerControl:
        """A step is reported; before a checkpoint or an evaluation the loss is looked at."""
        self.constrain(rest["model"])
        self.journal("step", keep=False, stage=self.stage, step=self.done + state.global_step, steps=self.total)
        control.should_log |= control.should_save or control.should_evaluate
        return control

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any
    ) -> TrainerControl:
        """As at the end of a step."""
        control.should_log |= control.should_save or control.should_evaluate
        return control

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **rest: Any,
    ) -> None:
        """The loss of the last steps.

        Raises:
            RunError: it is not a finite number.
        """
        logs = logs or {}
        if "loss" not in logs:
            return
        step = self.done + state.global_step
        if not (math.isfinite(float(logs["loss"])) and math.isfinite(float(logs.get("grad_norm", 0.0)))):
            raise RunError(
                f"The loss or its gradient is not a finite number any more (by step {step} of stage '{self.stage}'). "
                "Lower train.learning_rate, raise train.warmup_steps, or train in float32."
            )
        self.journal("trained", **logs, stage=self.stage, step=step, steps=self.total)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **rest: Any,
    ) -> None:
        """The scores on the validation split."""
        scores = {k.removeprefix("eval_"): v for k, v in (metrics or {}).items()}
        self.journal("evaluated", stage=self.stage, step=self.done + state.global_step, steps=self.total, scores=scores)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        """Once every process has written its part, the checkpoint is sealed and older ones go."""
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            stage = Path(str(args.output_dir))
            checkpoints.seal(stage / f"checkpoint-{state.global_step}")
            checkpoints.rotate(stage, state.best_model_checkpoint)
