"""A method's companions, called where the training has got to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hfadapt.methods.base import Companion, Stage

_STATE = "companions.pt"


class Company(TrainerCallback):
    """The companions of one stage: tells them what happens, and keeps their state in its checkpoints."""

    def __init__(
        self,
        companions: Sequence[Companion],
        model: nn.Module,
        stage: Stage,
        folder: Path,
        settled: Mapping[str, Any],
    ):
        """model: the wrapped one; folder: where companions may keep files; settled: training arguments."""
        self.companions, self.model, self.stage, self.folder = companions, model, stage, folder
        self.metric, self.greater = str(settled["metric_for_best_model"]), bool(settled["greater_is_better"])

    def begin(self, steps: int, checkpoint: Path | None) -> None:
        """Before the stage's first step, or the first one after a checkpoint."""
        for companion in self.companions:
            companion.began(self.model, self.stage, steps)
        if self.companions and checkpoint:
            saved = torch.load(checkpoint / _STATE, weights_only=True, map_location="cpu")
            for companion, state in zip(self.companions, saved, strict=True):
                companion.restore(state)

    def end(self) -> None:
        """After the stage's last step."""
        for companion in self.companions:
            companion.ended(self.model)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any
    ) -> None:
        """The Trainer counts a step a little later."""
        for companion in self.companions:
            companion.stepped(self.model, state.global_step + 1)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **rest: Any,
    ) -> None:
        """The score is turned round where less is better."""
        value = (metrics or {}).get(f"eval_{self.metric}")
        for companion in self.companions if value is not None else ():
            score = float(value) if self.greater else -float(value)  # type: ignore[arg-type]
            companion.evaluated(self.model, self.stage, state.global_step, score, self.folder)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        """Into the checkpoint, before it is sealed."""
        if not self.companions:
            return
        states = [dict(companion.state()) for companion in self.companions]
        if PartialState().is_main_process:
            torch.save(states, Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / _STATE)
