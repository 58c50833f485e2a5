"""What only a run would refuse, as the plan tells it."""

from __future__ import annotations

import os
from typing import Any

import pytest

from hfadapt.errors import Problem
from hfadapt.methods.base import Stage
from hfadapt.settings import resolve, steps_per_epoch, total_steps
from hfadapt.training.rehearsing import rehearse


def rehearsed(processes: int = 1, **train: Any) -> list[Problem]:
    settled = resolve(train, "accuracy", lambda _: True)
    return list(rehearse(settled, [Stage("all", {"weight": 1.0})], 10, processes))


def test_the_defaults_pass():
    assert rehearsed() == []


@pytest.mark.parametrize(
    ("name", "value"), [("fsdp", True), ("fsdp", "full_shard"), ("ddp_backend", "gloo"), ("ddp_backend", "nccl")]
)
def test_what_needs_several_processes(name, value):
    assert [p.field for p in rehearsed(**{name: value})] == [f"train.{name}"]
    assert rehearsed(processes=2, **{name: value}) == []


def test_an_unknown_backend():
    [problem] = rehearsed(processes=2, ddp_backend="glo")
    assert str(problem) == "train.ddp_backend: 'glo' is not accepted. Did you mean 'gloo'?"


@pytest.mark.parametrize(
    ("there", "package", "train"),
    [
        ("accelerate.utils.is_deepspeed_available", "deepspeed", {"deepspeed": {"train_batch_size": 8}}),
        ("transformers.utils.is_liger_kernel_available", "liger-kernel", {"use_liger_kernel": True}),
    ],
)
def test_packages_that_are_not_installed(there, package, train, monkeypatch):
    monkeypatch.setattr(there, lambda: False)
    assert [p.says for p in rehearsed(**train)] == [f"The package '{package}' is not installed."]


def test_a_configuration_that_is_not_there(monkeypatch):
    monkeypatch.setattr("accelerate.utils.is_deepspeed_available", lambda: True)
    assert [str(p) for p in rehearsed(deepspeed="no.json")] == ["train.deepspeed: There is no file 'no.json'."]


def test_a_compiler_that_is_not_there(monkeypatch):
    from torch._inductor import config

    compiles = {"torch_compile": True}
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    assert rehearsed(**compiles) == []
    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    assert [p.field for p in rehearsed(**compiles)] == ["train.torch_compile"]
    assert rehearsed(torch_compile_backend="eager") == []


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_on_a_cpu(precision, monkeypatch):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    assert rehearsed(**{precision: True}) == []


def test_nothing_is_left_for_the_next_run():
    before = dict(os.environ)
    assert rehearsed(torch_compile_backend="eager", torch_compile_mode="default") == []
    assert rehearsed(processes=2, fsdp=True) == []
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("rows", "processes", "train", "steps"),
    [
        (20, 1, {}, 3),
        (20, 2, {}, 2),
        (20, 1, {"dataloader_drop_last": True}, 2),
        (20, 2, {"dataloader_drop_last": True}, 2),
        (7, 1, {"dataloader_drop_last": True}, 0),
        (20, 1, {"gradient_accumulation_steps": 2}, 2),
        (20, 1, {"gradient_accumulation_steps": 100}, 1),
    ],
)
def test_steps_are_the_trainers(rows, processes, train, steps):
    settled = resolve({"per_device_train_batch_size": 8, **train}, "accuracy", lambda _: True)
    assert steps_per_epoch(settled, rows, processes) == steps
    assert total_steps(settled, rows, processes) == 3 * steps
