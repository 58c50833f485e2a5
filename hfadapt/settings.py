"""How the `train` section becomes TrainingArguments: upstream's names, and one table of what we change."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from hfadapt.errors import HfadaptError, Problem, count, did_you_mean
from hfadapt.upstream import Field, fields

DEFAULTS: dict[str, tuple[Any, str]] = {
    "per_device_train_batch_size": (16, "upstream's 8 wastes most of a device"),
    "per_device_eval_batch_size": (32, "no gradients are kept when scoring"),
    "warmup_steps": (0.1, "a tenth of the steps; a cold start at full speed can ruin a pretrained body"),
    "weight_decay": (0.01, "as BERT and ViT were trained"),
    "eval_strategy": ("epoch", "to pick the best checkpoint"),
    "save_strategy": ("epoch", "a crash loses an epoch at most"),
    "load_best_model_at_end": (True, "the best epoch is kept, not the last"),
    "logging_steps": (10, "a curve worth looking at"),
    "logging_nan_inf_filter": (False, "a loss that is not a number is shown, and stops the run"),
    "train_sampling_strategy": ("group_by_length", "less padding; the order is still random from epoch to epoch"),
    "ddp_find_unused_parameters": (False, "each stage wraps exactly what trains"),
    "restore_callback_states_from_checkpoint": (True, "early stopping goes on where it was"),
}
"""Where we differ from TrainingArguments, and why."""

REASONS = {
    "dataloader_num_workers": "they decode pictures while the accelerator computes",
    "learning_rate": "what moves here is little or new, and takes larger steps than a pretrained body",
    "bf16": "this GPU multiplies matrices in bfloat16 at many times the rate; weights and updates stay float32",
}
"""Why there is a value that depends on the machine, or on the method."""

_MOST_WORKERS = 8

EARLY_STOPPING = {
    "early_stopping_patience": Field(
        "early_stopping_patience", frozenset({"int", "None"}), help="Evaluations without improvement before stopping."
    ),
    "early_stopping_threshold": Field(
        "early_stopping_threshold", frozenset({"float"}), default=0.0, help="What counts as an improvement."
    ),
}
"""The arguments of transformers' EarlyStoppingCallback, accepted beside those of TrainingArguments."""

MAX_TOKENS, BATCHES = "per_device_train_max_tokens", "per_device_train_batches"
"""The budget of a batch in tokens, padding included, and how many batches of it an epoch has."""
_BUDGET = {
    MAX_TOKENS: Field(
        MAX_TOKENS,
        frozenset({"int", "None"}),
        help="The most tokens of a batch on one device, padding included: its rows times the longest of them. Batches "
        "of texts of similar length then have many short or few long ones, in place of `per_device_train_batch_size`.",
    ),
}
NOT_THEIRS = {*EARLY_STOPPING, MAX_TOKENS, BATCHES}
"""What TrainingArguments does not know."""
_SPARE = 0.05
"""How many more batches there are than the fewest, so that not the same texts meet in each epoch."""

OURS_TO_SET: dict[str, str] = {
    "output_dir": "hfadapt chooses the run folder (`--out`)",
    "do_train": "hfadapt always trains",
    "do_eval": "`eval_strategy` says when to evaluate",
    "do_predict": "`hfadapt predict` predicts",
    "resume_from_checkpoint": "`--resume` continues a run",
    "push_to_hub": "hfadapt does not push while it trains",
    "hub_token": "a token has no place in a file; log in with `hf auth login`",
    "hub_model_id": "hfadapt does not push while it trains",
    "hub_strategy": "hfadapt does not push while it trains",
    "hub_private_repo": "hfadapt does not push while it trains",
    "hub_always_push": "hfadapt does not push while it trains",
    "hub_revision": "hfadapt does not push while it trains",
    "remove_unused_columns": "the task chooses the columns",
    "label_names": "the task names the labels",
    "batch_eval_metrics": "scores are always computed as a stream",
    "include_for_metrics": "scores are computed from logits and labels",
    "prediction_loss_only": "scores need the predictions",
    "eval_do_concat_batches": "scores are always computed as a stream",
    "use_cpu": "hfadapt uses the CPU where there is no accelerator (hide one with CUDA_VISIBLE_DEVICES=)",
    "data_seed": "`seed` decides the order of the data too",
    "disable_tqdm": "hfadapt shows its own progress",
    "enable_jit_checkpoint": "it hangs where several processes train; hfadapt's checkpoints are exact",
    "local_rank": "the launcher numbers the processes",
    "parallelism_config": "hfadapt divides the rows among processes, and with `fsdp` the model too",
    "average_tokens_across_devices": "the loss is always averaged over the whole batch",
    "length_column_name": "the task knows the lengths",
    "save_total_limit": "hfadapt keeps the best and the latest checkpoint",
    "auto_find_batch_size": "it would change the batch under way; use `gradient_accumulation_steps`",
    "gradient_checkpointing": "its upstream name is now `activation_checkpointing`",
    "gradient_checkpointing_kwargs": "its upstream name is now `activation_checkpointing_kwargs`",
}
"""TrainingArguments that a recipe may not set, and why."""

GONE: dict[str, str] = {
    "adafactor": "write `optim: adafactor`",
    "evaluation_strategy": "it is now `eval_strategy`",
    "fp16_backend": "`fp16` and `bf16` choose the precision",
    "fp16_opt_level": "`fp16` and `bf16` choose the precision",
    "fsdp_min_num_params": "write `fsdp_config: {min_num_params: …}`",
    "fsdp_transformer_layer_cls_to_wrap": "write `fsdp_config: {transformer_layer_cls_to_wrap: …}`",
    "group_by_length": "write `train_sampling_strategy: group_by_length`, which is the default here",
    "half_precision_backend": "`fp16` and `bf16` choose the precision",
    "include_inputs_for_metrics": "scores are computed from logits and labels",
    "include_tokens_per_second": "`include_num_input_tokens_seen` counts tokens",
    "jit_mode_eval": "models are no longer traced; `torch_compile` compiles them",
    "logging_dir": "the variable TENSORBOARD_LOGGING_DIR of the environment chooses the folder",
    "mp_parameters": "it was for SageMaker's model parallelism",
    "no_cuda": "hide an accelerator with CUDA_VISIBLE_DEVICES=",
    "overwrite_output_dir": "hfadapt never writes over a run; `--out` chooses the folder",
    "past_index": "no model here hands a state on to the next batch",
    "per_gpu_eval_batch_size": "it is now `per_device_eval_batch_size`",
    "per_gpu_train_batch_size": "it is now `per_device_train_batch_size`",
    "push_to_hub_model_id": "hfadapt does not push while it trains",
    "push_to_hub_organization": "hfadapt does not push while it trains",
    "push_to_hub_token": "a token has no place in a file; log in with `hf auth login`",
    "ray_scope": "hfadapt searches no hyperparameters",
    "save_safetensors": "weights are always saved as safetensors",
    "torchdynamo": "write `torch_compile_backend`",
    "tpu_metrics_debug": "write `debug: tpu_metrics_debug`",
    "tpu_num_cores": "the launcher decides how many processes there are",
    "use_legacy_prediction_loop": "there is one loop",
    "use_mps_device": "an accelerator is used where there is one",
    "warmup_ratio": "write it as `warmup_steps`, which is a share of the steps where it is below 1",
}
"""Names that TrainingArguments had before transformers 5, and what to write now."""

SAMPLING = ("random", "sequential", "group_by_length")
"""The sampling strategies that are exact on any number of processes."""


@cache
def training_fields() -> dict[str, Field]:
    """What the `train` section may hold: the installed TrainingArguments' fields and early stopping."""
    upstream = dict(fields("transformers.training_args:TrainingArguments", "transformers.trainer_utils"))
    # Upstream takes true, and says so in its help; its annotation is of older versions.
    upstream["fsdp"] = replace(upstream["fsdp"], kinds=frozenset({"bool", *upstream["fsdp"].kinds}))
    return {name: f for name, f in (upstream | EARLY_STOPPING | _BUDGET).items() if name not in OURS_TO_SET}


_POSITIVE = (
    "learning_rate",
    "num_train_epochs",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "logging_steps",
    "eval_steps",
    "save_steps",
    "eval_accumulation_steps",
    "torch_empty_cache_steps",
    "dataloader_prefetch_factor",
    "ddp_timeout",
    "early_stopping_patience",
    MAX_TOKENS,
)
_NOT_NEGATIVE = (
    "weight_decay",
    "warmup_steps",
    "max_grad_norm",
    "seed",
    "early_stopping_threshold",
    "dataloader_num_workers",
    "adam_epsilon",
    "neftune_noise_alpha",
    "eval_delay",
)
_BELOW_ONE = ("label_smoothing_factor", "adam_beta1", "adam_beta2")


_BESIDE_TOKENS = {
    "per_device_train_batch_size": None,
    "train_sampling_strategy": "group_by_length",
    "dataloader_drop_last": False,
}
"""What may be set beside a budget of tokens."""


def out_of_range(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, sentence) for each value that TrainingArguments would take and no training could use."""
    for key, value in values.items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        if key in _POSITIVE and not 0 < value < math.inf:
            yield key, f"{value} is not a number above 0."
        elif key in _NOT_NEGATIVE and not 0 <= value < math.inf and (key, value) != ("max_grad_norm", math.inf):
            yield key, f"{value} is not 0 or more."
        elif key in _BELOW_ONE and not 0 <= value < 1:
            yield key, f"{value} is not in the range from 0 to 1."
        elif key == "max_steps" and value < 1 and value != -1:
            yield key, f"{value} is not a number above 0; -1 leaves it to num_train_epochs."
        elif key == "seed" and value >= 2**32:
            yield key, f"{value} is not below 2^32."
    if values.get(MAX_TOKENS) is not None:
        for key, good in _BESIDE_TOKENS.items():
            if values.get(key, good) != good:
                yield key, f"{MAX_TOKENS} decides which rows make a batch. Set one of the two."
    shared = values.get("accelerator_config")
    if isinstance(shared, Mapping) and shared.get("dispatch_batches"):
        yield "accelerator_config", "Each process reads its own rows here. Leave out dispatch_batches."
    strategy = values.get("train_sampling_strategy", SAMPLING[0])
    if isinstance(strategy, str) and strategy not in SAMPLING:
        yield "train_sampling_strategy", f"'{strategy}' is not accepted. {did_you_mean(strategy, SAMPLING)}"


def workers(processes: int) -> int:
    """How many worker processes decode pictures for each process that trains on an accelerator of this machine.

    On a CPU there are none: they would take the cores that compute.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(0, min(_MOST_WORKERS, cores // processes - 1))


_PRECISION = ("bf16", "fp16", "bf16_full_eval", "fp16_full_eval", "deepspeed")
"""Arguments that choose a precision, each by itself or in its configuration."""


def of_machine(values: Mapping[str, Any], *, dtype: str = "float32", workers: int = 0) -> dict[str, Any]:
    """Defaults that depend on where the training runs.

    values: the recipe's; dtype: of the weights; workers: worker processes that read rows.
    """
    found: dict[str, Any] = {"dataloader_num_workers": workers} if workers else {}
    # `accelerate launch` says `no` also where nobody chose.
    chosen = any(name in values for name in _PRECISION) or os.environ.get("ACCELERATE_MIXED_PRECISION", "no") != "no"
    if dtype == "float32" and not chosen and has_bfloat16():
        found["bf16"] = True
    return found


def has_bfloat16() -> bool:
    """Whether there is a GPU that multiplies matrices in bfloat16, rather than to imitate it at a lower rate."""
    import torch

    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def resolve(
    values: Mapping[str, Any],
    score: str,
    better_first: Callable[[str], bool],
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Arguments for TrainingArguments: the recipe's, then ours, then what follows from both.

    score: the metric that picks the best checkpoint unless the recipe names another;
    better_first: whether a metric is the better the greater it is; more: defaults of this machine and of the method.
    """
    settled = {name: default for name, (default, _) in DEFAULTS.items()} | dict(more or {}) | dict(values)
    evaluated = settled["eval_strategy"]
    if "save_strategy" not in values and evaluated != "no":
        settled["save_strategy"] = evaluated
        if "eval_steps" in values:
            settled.setdefault("save_steps", values["eval_steps"])
    if "load_best_model_at_end" not in values:
        settled["load_best_model_at_end"] = evaluated != "no" and settled["save_strategy"] in (evaluated, "best")
    settled.setdefault("metric_for_best_model", score)
    metric = str(settled["metric_for_best_model"]).removeprefix("eval_")
    settled["metric_for_best_model"] = metric
    settled.setdefault("greater_is_better", better_first(metric))
    settled.setdefault("seed", 42)
    if settled.get(MAX_TOKENS):
        del settled["per_device_train_batch_size"]
    return settled


def in_tokens(settled: Mapping[str, Any], lengths: Sequence[int] | None) -> dict[str, int]:
    """What follows from a budget of tokens, if there is one: how many batches an epoch has.

    lengths: of every training row, after cutting; None where rows have none.

    Raises:
        HfadaptError: the rows have no lengths, or one of them is longer than the budget.
    """
    if not (most := settled.get(MAX_TOKENS)):
        return {}
    field = f"train.{MAX_TOKENS}"
    if lengths is None:
        says = "The rows of this task are not texts that could be counted in tokens."
        raise HfadaptError(Problem(says, field, hint="Set per_device_train_batch_size."))
    if (longest := max(lengths)) > most:
        says = f"The longest training text has {count(longest, 'token')}, and a batch may have {most:,}."
        raise HfadaptError(Problem(says, field, hint="Raise it, or lower task.max_length."))
    fewest = len(cut(sorted(lengths, reverse=True), most))
    return {BATCHES: min(len(lengths), math.ceil(fewest * (1 + _SPARE)))}


def cut(lengths: Iterable[int], most: int) -> list[int]:
    """The rows of each batch, if rows follow one another in this order: times the longest of them, `most` at most."""
    sizes, longest = [0], 0
    for length in lengths:
        longest = max(longest, length)
        if longest * (sizes[-1] + 1) > most and sizes[-1]:
            sizes.append(0)
            longest = length
        sizes[-1] += 1
    return sizes


def remade(settled: Mapping[str, Any]) -> str:
    """What else is made of the model, so that no module of it may be changed or left out; empty if nothing."""
    if settled.get("fsdp") or settled.get("deepspeed"):
        return "the model is divided among processes"
    if settled.get("torch_compile") or settled.get("torch_compile_backend"):
        return "the model is compiled"
    return ""


def total_steps(settled: Mapping[str, Any], rows: int, processes: int) -> int:
    """The optimizer steps of the whole training, all stages together."""
    steps = int(settled.get("max_steps", -1))
    if steps > 0:
        return steps
    return math.ceil(settled.get("num_train_epochs", 3.0) * steps_per_epoch(settled, rows, processes))


def steps_per_epoch(settled: Mapping[str, Any], rows: int, processes: int) -> int:
    """The optimizer steps of one pass over the rows."""
    if settled.get(MAX_TOKENS):
        each = math.ceil(settled[BATCHES] / processes)
        return math.ceil(each / settled.get("gradient_accumulation_steps", 1))
    whole = rows / (settled["per_device_train_batch_size"] * processes)
    # Several processes fill the last batch up with ghosts, which leaves nothing to drop.
    drops = settled.get("dataloader_drop_last") and processes == 1
    batches = math.floor(whole) if drops else math.ceil(whole)
    return math.ceil(batches / settled.get("gradient_accumulation_steps", 1))
