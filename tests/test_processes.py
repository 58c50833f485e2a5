"""Two processes on a CPU: the same weights as one, bit for bit after a kill, and refused when not joined."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from nursery import Child, Nursery

import hfadapt
from hfadapt import launching
from hfadapt.errors import RunError
from hfadapt.reading import read


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, toy) -> Path:
    """Two stages over 51 rows, which neither 2 processes nor batches of 8 divide; no dropout."""
    from conftest import TEXTS

    from hfadapt import tiny
    from hfadapt.noise import quiet

    folder = tmp_path_factory.mktemp("two")
    with quiet():
        # With small weights the rounding in gradients that are zero, like those of the keys' bias, stays below
        # Adam's epsilon; with large ones Adam makes steps of it, and no two orders of summation agree.
        still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.02}
        tiny.checkpoint(folder / "model", "bert", TEXTS, **still)
    values = {
        "task": "text-classification",
        "model": str(folder / "model"),
        "data": {"path": str(toy), "text": "text", "label": "label"},
        "adapt": {"method": "lp-ft", "probe": 0.4},
        "cache": "on",
        "train": {
            "num_train_epochs": 2,
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "eval_strategy": "steps",
            "eval_steps": 2,
        },
    }
    (folder / "two.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return folder / "two.yaml"


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "hfadapt", "run", *words]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), capture_output=True, text=True, timeout=600)


def joined(nursery: Nursery, *words: str) -> list[Child]:
    """Two processes of one run, started as a launcher starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        told = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": free.getsockname()[1],
            "WORLD_SIZE": 2,
            "LOCAL_WORLD_SIZE": 2,
        }
    made = []
    for rank in range(2):
        its = os.environ | {name: str(value) for name, value in {**told, "RANK": rank, "LOCAL_RANK": rank}.items()}
        made.append(nursery.start([sys.executable, "-m", "hfadapt.run", *words], env=its))
    return made


def outcome(folder: Path) -> tuple[dict[str, torch.Tensor], dict, list[float]]:
    from safetensors.torch import load_file

    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    scores = json.loads((folder / "scores.json").read_text())
    return load_file(folder / "model/model.safetensors"), scores, [e["loss"] for e in log if e["event"] == "trained"]


@pytest.fixture(scope="module")
def both(recipe, tmp_path_factory):
    """The outcome of the same global batch on one process and on two."""
    folder = tmp_path_factory.mktemp("runs")
    hfadapt.adapt(hfadapt.plan(read(recipe)), folder / "one")
    done = run(str(recipe), "train.per_device_train_batch_size=4", "--processes", "2", "--out", str(folder / "two"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run folder") == 1, "one process speaks"
    return outcome(folder / "one"), outcome(folder / "two")


@pytest.mark.slow
def test_two_processes_end_where_one_does(both):
    (one, one_scores, one_losses), (two, two_scores, two_losses) = both
    assert max(float((one[k] - two[k]).abs().max()) for k in one) < 1e-6
    assert one_losses == pytest.approx(two_losses, abs=1e-6)
    assert len(one_losses) > 10
    flat = [
        (split, metric, one_scores["scores"][split][metric][part], two_scores["scores"][split][metric][part])
        for split in one_scores["scores"]
        for metric in one_scores["scores"][split]
        for part in ("value", "low", "high", "rows")
    ]
    assert len(flat) > 50
    for split, metric, a, b in flat:
        assert a == pytest.approx(b, abs=1e-9), (split, metric)


@pytest.mark.slow
def test_two_processes_that_were_killed_go_on_bit_for_bit(nursery, recipe, both, tmp_path):
    _, (whole, scores, _) = both
    log = tmp_path / "cut" / "log.jsonl"
    processes = joined(nursery, str(recipe), "train.per_device_train_batch_size=4", "--out", str(tmp_path / "cut"))
    try:
        end = time.monotonic() + 500
        while not (log.exists() and '"stage": "tune", "step": 8' in log.read_text()):
            assert all(process.poll() is None for process in processes) and time.monotonic() < end
            time.sleep(0.01)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert not (tmp_path / "cut" / "scores.json").exists()
    assert [process.wait() for process in joined(nursery, "--resume", str(tmp_path / "cut"))] == [0, 0]
    weights, resumed, _ = outcome(tmp_path / "cut")
    assert all(torch.equal(weights[k], whole[k]) for k in whole)
    assert resumed["scores"] == scores["scores"]


def test_processes_that_do_not_know_of_each_other_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("accelerate.PartialState", lambda cpu: SimpleNamespace(num_processes=1))
    with pytest.raises(RunError, match="2 processes were started, but 1 would train together"):
        launching.check_joined()


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("accelerate launch --num_processes 2 -m hfadapt.run r.yaml", 2),
        ("python /x/accelerate launch --num_processes=3 -m hfadapt.run r.yaml", 3),
        ("accelerate launch -m hfadapt.run r.yaml", 1),
        ("bash", 1),
    ],
)
def test_what_the_launcher_was_asked_for(line, asked):
    assert launching._asked_for(line.split()) == asked


def test_one_process_where_two_were_asked_for_is_refused(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(launching, "_launcher_arguments", lambda: ["accelerate", "launch", "--num_processes", "2"])
    with pytest.raises(RunError, match="launcher started one"):
        launching.set_up()


@pytest.mark.parametrize(
    ("given", "threads"),
    [
        ({"OMP_NUM_THREADS": "1", "ACCELERATE_MIXED_PRECISION": "no"}, "4"),
        ({"OMP_NUM_THREADS": "1", "ACCELERATE_MIXED_PRECISION": "no", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "1"}, "2"),
        ({"OMP_NUM_THREADS": "1"}, "1"),
        ({"OMP_NUM_THREADS": "1", "ACCELERATE_MIXED_PRECISION": "no", "HFADAPT_THREADS": "1"}, "1"),
    ],
)
def test_a_launcher_that_leaves_one_thread_is_corrected(given, threads, monkeypatch):
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "ACCELERATE_MIXED_PRECISION", "HFADAPT_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launching, "_cores", lambda: 4)
    launching.set_up()
    assert os.environ["OMP_NUM_THREADS"] == threads
