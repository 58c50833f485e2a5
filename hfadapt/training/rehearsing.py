"""What upstream would refuse only once training starts, asked of it while planning."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.utils.data import DataLoader, TensorDataset

from hfadapt.errors import HfadaptError, Problem, did_you_mean, one_line
from hfadapt.methods.base import Adaptation, Stage
from hfadapt.settings import NOT_THEIRS


def rehearse(
    settled: Mapping[str, Any],
    stages: Sequence[Stage],
    steps: int,
    processes: int = 1,
    chain: Sequence[Adaptation] = (),
) -> Iterator[Problem]:
    """The problems of the `train` section that show when its parts are made: arguments, optimizer, schedule.

    processes: how many will train together; they need not run yet; chain: the methods, which see the stages' steps.
    """
    from hfadapt.training.stages import steps_of

    try:
        each = steps_of(stages, steps)
        for method in chain:
            method.check_steps(each)
    except HfadaptError as error:
        field = "train.max_steps" if settled.get("max_steps", -1) > 0 else "train.num_train_epochs"
        yield Problem(error.problems[0].says, field, hint="Raise it.")
    if settled.get("early_stopping_patience") and not settled["load_best_model_at_end"]:
        says = "Early stopping needs evaluations and the best checkpoint: set eval_strategy and load_best_model_at_end."
        yield Problem(says, "train.early_stopping_patience")
    yield from _trackers(settled.get("report_to", "none"))
    refused = [*_together(settled, processes), *_packages(settled), *_words(settled), *_loader(settled)]
    yield from refused
    if not refused:
        # TrainingArguments leaves variables behind that would speak to the next run of this process.
        with patch.dict(os.environ):
            yield from _parts(settled, steps)


def _together(settled: Mapping[str, Any], processes: int) -> Iterator[Problem]:
    """What needs several processes."""
    for name, what in (("fsdp", "FSDP divides a model among"), ("ddp_backend", "A backend connects")):
        if settled.get(name) and processes == 1:
            hint = "Start several with `hfadapt run RECIPE --processes N`, or leave it out."
            yield Problem(f"{what} several processes, and there is one.", f"train.{name}", hint=hint)


def _packages(settled: Mapping[str, Any]) -> Iterator[Problem]:
    from accelerate.utils import is_deepspeed_available
    from transformers.utils import is_liger_kernel_available

    config = settled.get("deepspeed")
    if config and not is_deepspeed_available():
        yield Problem("The package 'deepspeed' is not installed.", "train.deepspeed")
    if isinstance(config, str) and not Path(config).is_file():
        yield Problem(f"There is no file '{config}'.", "train.deepspeed")
    if settled.get("use_liger_kernel") and not is_liger_kernel_available():
        yield Problem("The package 'liger-kernel' is not installed.", "train.use_liger_kernel")
    if _compiles(settled) and settled.get("torch_compile_backend", "inductor") == "inductor":
        yield from _compiler()


def _compiler() -> Iterator[Problem]:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        if not torch.accelerator.is_available():
            get_cpp_compiler()
    except InvalidCxxCompiler:
        yield Problem("torch.compile needs a C++ compiler such as g++, and there is none.", "train.torch_compile")


def _loader(settled: Mapping[str, Any]) -> Iterator[Problem]:
    names = ("multiprocessing_context", "persistent_workers", "prefetch_factor", "num_workers")
    options = {name: settled[f"dataloader_{name}"] for name in names if f"dataloader_{name}" in settled}
    try:
        DataLoader(TensorDataset(torch.zeros(1)), **options)
    except ValueError as error:
        text = one_line(str(error))
        blamed = next(name for name in names if name in text)
        yield Problem(f"torch refuses this: {text.rstrip('.')}.", f"train.dataloader_{blamed}")


def _words(settled: Mapping[str, Any]) -> Iterator[Problem]:
    """Words that upstream looks up, without a list of them among its fields."""
    from transformers.training_args import trainer_log_levels

    known: dict[str, Collection[str]] = dict.fromkeys(("log_level", "log_level_replica"), trainer_log_levels)
    if "ddp_backend" in settled:
        known["ddp_backend"] = set(torch.distributed.Backend.backend_list) - {"undefined", "fake"}
    if _compiles(settled):
        known |= _compilers()
    for name, words in known.items():
        if (word := settled.get(name)) and word not in words:
            yield Problem(f"'{word}' is not accepted.", f"train.{name}", hint=did_you_mean(word, words))


def _compiles(settled: Mapping[str, Any]) -> bool:
    # As TrainingArguments decides it.
    return any(settled.get(name) for name in ("torch_compile", "torch_compile_backend", "torch_compile_mode"))


def _compilers() -> dict[str, Collection[str]]:
    from accelerate.utils import DynamoBackend
    from torch._dynamo import list_backends
    from torch._inductor import list_mode_options

    accelerated = {backend.value.lower() for backend in DynamoBackend}
    backends = accelerated & {"no", *list_backends(exclude_tags=None)}
    return {"torch_compile_backend": backends, "torch_compile_mode": list_mode_options()}


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

    # A backend is looked for at once, and the processes that it connects may be still to come.
    given = {k: v for k, v in settled.items() if k not in {*NOT_THEIRS, "report_to", "ddp_backend"}}
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
        flat = text.lower()  # AcceleratorConfig is what accelerator_config becomes.
        named = [name for name in settled if name in text or name.replace("_", "") in flat]
        named = named if blamed == "train" else []
        yield Problem(f"transformers refuses this: {text.rstrip('.')}.", f"train.{named[0]}" if named else blamed)
