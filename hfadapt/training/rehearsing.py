"""What upstream would refuse only once training starts, asked of it while planning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from hfadapt.errors import HfadaptError, Problem, one_line
from hfadapt.methods.base import Stage
from hfadapt.settings import EARLY_STOPPING


def rehearse(settled: Mapping[str, Any], stages: Sequence[Stage], steps: int) -> Iterator[Problem]:
    """The problems of the `train` section that show when its parts are made: arguments, optimizer, schedule."""
    from hfadapt.training.stages import steps_of

    try:
        steps_of(stages, steps)
    except HfadaptError as error:
        yield Problem(error.problems[0].says, "train.max_steps" if "max_steps" in settled else "train.num_train_epochs")
    if settled.get("early_stopping_patience") and not settled["load_best_model_at_end"]:
        says = "Early stopping needs evaluations and the best checkpoint: set eval_strategy and load_best_model_at_end."
        yield Problem(says, "train.early_stopping_patience")
    yield from _trackers(settled.get("report_to", "none"))
    yield from _parts(settled, steps)


def _trackers(named: Any) -> Iterator[Problem]:
    from transformers.integrations import get_reporting_integration_callbacks

    names = [named] if isinstance(named, str) else list(named or ())
    for name in names:
        if name in {"none", "all"}:
            continue
        try:
            get_reporting_integration_callbacks([name])
        except (ValueError, ImportError) as error:
            yield Problem(one_line(str(error)), "train.report_to")


def _parts(settled: Mapping[str, Any], steps: int) -> Iterator[Problem]:
    from transformers import Trainer, TrainingArguments, get_scheduler

    given = {k: v for k, v in settled.items() if k not in EARLY_STOPPING and k != "report_to"}
    given |= {"output_dir": "unused", "use_cpu": not torch.accelerator.is_available(), "max_steps": steps}
    blamed = "train"
    try:
        arguments = TrainingArguments(**given)
        blamed = "train.optim_args" if "optim_args" in settled else "train.optim"
        kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments, None)
        optimizer = kind([torch.nn.Parameter(torch.zeros(1))], **options)
        blamed = "train.lr_scheduler_kwargs" if "lr_scheduler_kwargs" in settled else "train.lr_scheduler_type"
        get_scheduler(
            arguments.lr_scheduler_type,
            optimizer,
            num_warmup_steps=arguments.get_warmup_steps(steps),
            num_training_steps=steps,
            scheduler_specific_kwargs=arguments.lr_scheduler_kwargs,
        )
    except (ValueError, TypeError, ImportError, AttributeError) as error:
        text = one_line(str(error))
        named = [name for name in settled if name in text] if blamed == "train" else []
        yield Problem(f"transformers refuses this: {text.rstrip('.')}.", f"train.{named[0]}" if named else blamed)
