"""A checkpoint counts only when it is whole."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from safetensors import safe_open

import hfadapt
from hfadapt.recipe import Recipe
from hfadapt.training import checkpoints


def make(stage: Path, step: int, sealed: bool = True) -> Path:
    folder = stage / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    for name in ("model.safetensors", "optimizer.pt", "rng_state.pth"):
        (folder / name).write_bytes(random.Random(f"{step}{name}").randbytes(500))
    if sealed:
        checkpoints.seal(folder)
    return folder


def test_the_newest_by_number_counts(tmp_path):
    make(tmp_path, 9), make(tmp_path, 10)
    assert checkpoints.newest(tmp_path).name == "checkpoint-10"


def test_one_that_was_never_sealed_does_not(tmp_path):
    make(tmp_path, 1), make(tmp_path, 2, sealed=False)
    assert checkpoints.newest(tmp_path).name == "checkpoint-1"
    assert checkpoints.newest(tmp_path / "nowhere") is None


@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "swap", "manifest"])
def test_one_that_was_harmed_does_not(tmp_path, harm):
    make(tmp_path, 1)
    last = make(tmp_path, 2)
    target = last / "optimizer.pt"
    data = bytearray(target.read_bytes())
    if harm == "flip":
        data[137] ^= 1
        target.write_bytes(data)
    elif harm == "cut":
        target.write_bytes(data[:-1])
    elif harm == "remove":
        target.unlink()
    elif harm == "swap":
        target.write_bytes((last / "rng_state.pth").read_bytes())
    else:
        (last / checkpoints.MANIFEST).write_text("{")
    assert checkpoints.newest(tmp_path).name == "checkpoint-1"


def test_rotation_keeps_the_best_the_latest_and_what_is_not_ours(tmp_path):
    for step in (1, 2, 3, 4):
        make(tmp_path, step)
    foreign = tmp_path / "checkpoint-final"
    foreign.mkdir()
    unsealed = make(tmp_path, 5, sealed=False)
    checkpoints.rotate(tmp_path, best=str(tmp_path / "checkpoint-2"))
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == ["checkpoint-2", "checkpoint-4", "checkpoint-5", "checkpoint-final"]
    assert unsealed.exists() and foreign.exists()


@pytest.mark.parametrize(
    ("kind", "method", "rest"), [("bert", "linear-probe", 0), ("bert", "full", 0), ("mobilenet_v2", "linear-probe", 1)]
)
def test_the_engine_writes_what_moves_and_the_buffers(backbone, few, pictures, tmp_path, kind, method, rest):
    """Batch norms have buffers, which count too; what stands still is built anew by whoever goes on."""
    texts = {"task": "text-classification", "data": {"path": str(few), "text": "text", "label": "label"}}
    seen = {"task": "image-classification", "data": {"path": str(pictures)}}
    recipe = Recipe(
        **(texts if kind == "bert" else seen), model=str(backbone(kind)), adapt=method, train={"num_train_epochs": 2}
    )
    plan, found = hfadapt.plan(recipe), set()

    def listen(event):
        for path in (tmp_path / "run").glob("checkpoints/*/checkpoint-*/model.safetensors"):
            if (path.parent / checkpoints.MANIFEST).exists():
                with safe_open(path, "pt") as file:
                    found.update(file.keys())
                assert not (path.parent / "training_args.bin").exists()

    hfadapt.adapt(plan, tmp_path / "run", listener=listen)
    moving = set(plan.stages[0].speeds)
    assert moving <= found and len(moving) < len(plan.sizes) + (method == "full")
    buffers = found - moving
    assert bool(buffers) == bool(rest) and not buffers & set(plan.sizes)
