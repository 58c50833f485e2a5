"""What a run costs: what is counted is exact, what is timed is scaled by it."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

import hfadapt
from hfadapt import estimating
from hfadapt.backbones.base import anatomy
from hfadapt.estimating import Pace, Probe, batches, estimate, shortened, visits
from hfadapt.keeping import unused
from hfadapt.metering import Meter, count
from hfadapt.noise import quiet
from hfadapt.recipe import Cache, Recipe
from hfadapt.training.freezing import only

CPU = torch.device("cpu")


def planned(folder: Path, toy: Path, adapt: Any = "full", **train: Any) -> Any:
    return hfadapt.plan(
        Recipe(
            task="text-classification",
            model={"name": str(folder)},
            data={"path": str(toy), "text": "text", "label": "label"},
            adapt=adapt,
            train={"num_train_epochs": 2, "per_device_train_batch_size": 8, **train},
        )
    )


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same machine at every estimate: a fixed pace, nothing else in memory."""
    pace = Pace(1e-9, 1e-9, 1e-9, 1e-9, "a fixed pace")
    monkeypatch.setattr(estimating, "pace", lambda *_: pace)
    monkeypatch.setattr(estimating.psutil.Process, "memory_info", lambda _: SimpleNamespace(rss=0))


@pytest.mark.parametrize("adapt", ["full", "linear-probe", "partial", "lora"])
@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_imagined_tensors_take_as_much_as_real_ones(backbone: Any, toy: Path, kind: str, adapt: Any) -> None:
    plan = planned(backbone(kind), toy, adapt={"method": "partial", "top": 1} if adapt == "partial" else adapt)
    with quiet():
        probe, stage = Probe(plan, CPU), plan.stages[0]
        real = probe.model(plan.config)
    with only(real, stage.speeds):
        real.train()
        batch = probe.batch(5, 11)
        counted = count(real, lambda: probe.objective(real, batch))
    assert counted.still + counted.forward > 0 and counted.backward > 0 and counted.peak > 0
    assert probe.counts(5, 11, stage) == counted


def test_what_is_kept_is_what_autograd_saves(backbone: Any, toy: Path) -> None:
    plan = planned(backbone("bert"), toy)
    probe = Probe(plan, CPU)
    model = probe.model(plan.config).train()
    batch = probe.batch(6, 17)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = probe.objective(model, batch)
    assert loss.requires_grad and len(saved) > 20
    # Ids and the mask are kept by the batch too, and the loss by whoever asked for it.
    beside = sum(tensor.nbytes for tensor in batch.values()) + 6 * 17 * 17 * 4 + 64
    assert sum(saved.values()) == pytest.approx(probe.counts(6, 17, plan.stages[0]).kept, abs=beside)
    assert beside < 0.05 * sum(saved.values())


def test_gradients_and_moments_are_those_of_a_real_step(backbone: Any, toy: Path) -> None:
    plan = planned(backbone("bert"), toy, adapt={"method": "partial", "top": 1})
    probe, stage = Probe(plan, CPU), plan.stages[0]
    model = probe.model(plan.config)
    assert sum(p.numel() for p in model.parameters()) == plan.parameters
    with only(model, stage.speeds):
        moving = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(moving, fused=True)
        with Meter(model) as meter:
            probe.objective(model, probe.batch(2, 5)).backward()
        gradients = sum(p.grad.nbytes for p in moving if p.grad is not None)
        assert 0 <= meter.alive - gradients < 1000
        optimizer.step()
    state = [v for s in optimizer.state.values() for v in s.values()]
    weights, moments = estimating._stored(probe, stage.speeds, {})
    assert moments == sum(v.nbytes for v in state if v.ndim)
    assert weights == sum(p.nbytes for p in moving)


@pytest.mark.parametrize("optim, each", [("sgd", 0), ("adamw_torch_fused", 2), ("rmsprop", 1), ("adafactor", 0)])
def test_the_optimizer_decides_on_the_moments(backbone: Any, toy: Path, optim: str, each: int) -> None:
    plan = planned(backbone("bert"), toy, optim=optim)
    assert estimating._stored(Probe(plan, CPU), plan.stages[0].speeds, {})[1] == each * 4 * plan.parameters


def test_more_rows_and_longer_rows_take_more(backbone: Any, toy: Path) -> None:
    plan = planned(backbone("bert"), toy)
    probe = Probe(plan, CPU)
    small, wide, long = (probe.counts(*shape, plan.stages[0]) for shape in ((4, 8), (8, 8), (4, 16)))
    assert wide.forward == 2 * small.forward
    # To score takes other attention kernels, which keep nothing, but no other operations.
    scoring = probe.counts(4, 8)
    assert scoring.still == small.still + small.forward and scoring.backward == scoring.passing == 0
    assert scoring.peak < small.peak
    assert long.forward > 1.9 * small.forward and long.backward > 1.9 * small.backward
    for more in (wide, long):
        assert more.kept > 1.5 * small.kept and more.passing > 1.5 * small.passing and more.peak > small.peak


def test_a_batch_of_the_mean_length_stands_for_an_epoch(backbone: Any, toy: Path) -> None:
    plan = planned(backbone("bert"), toy, train_sampling_strategy="random")
    probe, stage, train = Probe(plan, CPU), plan.stages[0], batches(plan, "train")
    assert train.longest == max(plan.lengths.sample)
    lengths = sorted(plan.lengths.sample)[::8]
    assert lengths[0] < train.mean <= train.longest
    of_each = [probe.counts(1, length, stage) for length in lengths]
    direct = sum(counts.forward + counts.backward for counts in of_each)
    mean = probe.counts(len(lengths), round(sum(lengths) / len(lengths)), stage)
    assert mean.forward + mean.backward == pytest.approx(direct, rel=0.05)


def test_grouping_by_length_pads_less(backbone: Any, toy: Path) -> None:
    grouped = batches(planned(backbone("bert"), toy), "train")
    mixed = batches(planned(backbone("bert"), toy, train_sampling_strategy="random"), "train")
    assert grouped.size == 8 and grouped.longest == mixed.longest
    assert grouped.mean < mixed.mean


@pytest.mark.usefixtures("steady")
def test_a_probe_is_cheaper_than_full_training(backbone: Any, toy: Path) -> None:
    full, probe, both = (estimate(planned(backbone("bert"), toy, adapt=a)) for a in ("full", "linear-probe", "lp-ft"))
    assert probe.seconds < both.seconds < full.seconds
    assert probe.memory < both.memory == full.memory


@pytest.mark.usefixtures("steady")
def test_what_the_cache_keeps_is_paid_once(backbone: Any, toy: Path) -> None:
    """Each epoch more costs what is above; without the cache, what is below too."""

    def epoch(use: str) -> float:
        probe = planned(backbone("bert"), toy, adapt="linear-probe", eval_strategy="no")
        short, long = (
            hfadapt.plan(
                probe.recipe.model_copy(update={"cache": Cache(use=use), "train": {**probe.recipe.train, **more}})
            )
            for more in ({"num_train_epochs": 2}, {"num_train_epochs": 12})
        )
        return (estimate(long).seconds - estimate(short).seconds) / 10

    below = Probe(plan := planned(backbone("bert"), toy, adapt="linear-probe"), CPU).counts(8, 8, plan.stages[0]).still
    assert below
    assert epoch("auto") < epoch("off") - below * 1e-9


@pytest.mark.usefixtures("steady")
def test_two_processes_take_half_the_steps_and_share_the_cores(backbone: Any, toy: Path) -> None:
    one = planned(backbone("bert"), toy)
    two = hfadapt.plan(one.recipe, processes=2)
    assert two.steps == -(-52 // 16) * 2 < one.steps == -(-52 // 8) * 2
    assert estimate(two, 2).seconds == pytest.approx(estimate(one).seconds, rel=0.2)
    assert estimate(two, 2).memory > estimate(one).memory


def test_an_estimate_reads_no_weights(backbone: Any, toy: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(backbone("distilbert"), tmp_path / "copy")
    plan = planned(folder, toy)
    (folder / "model.safetensors").unlink()
    found = estimate(plan)
    assert found.seconds > 0 and found.memory > 4 * plan.parameters
    assert "tokens" in found.basis and "\n" not in found.basis


@pytest.mark.parametrize("kind", ["albert", "bert", "distilbert", "gpt2", "modernbert", "roberta"])
def test_a_shortened_model_has_one_block_of_the_same_width(kind: str) -> None:
    config = AutoConfig.for_model(kind)
    with torch.device("meta"):
        full, short = (AutoModelForSequenceClassification.from_config(c) for c in (config, shortened(config)))
    assert config.num_hidden_layers > 1 and short.config.num_hidden_layers == 1
    assert short.config.vocab_size == 1000 < config.vocab_size
    blocks = anatomy(short).blocks
    assert len(blocks) == 1
    assert [short.get_parameter(n).shape for n in blocks[0].parameters] == [
        full.get_parameter(n).shape for n in anatomy(full).blocks[0].parameters
    ]


@pytest.mark.parametrize(
    "train, expected",
    [
        ({}, (3, 3)),
        ({"eval_strategy": "no"}, (0, 3)),
        ({"eval_strategy": "steps", "eval_steps": 10}, (2, 2)),
        (
            {"eval_strategy": "steps", "eval_steps": 0.25, "save_strategy": "no", "load_best_model_at_end": False},
            (4, 0),
        ),
        ({"eval_strategy": "steps", "eval_steps": 0.3}, (4, 4)),
        ({"save_strategy": "best"}, (3, 3)),
    ],
)
def test_evaluations_and_checkpoints_are_those_of_the_trainer(
    backbone: Any, toy: Path, train: dict[str, Any], expected: tuple[int, int]
) -> None:
    plan = planned(backbone("bert"), toy, **train)
    per_epoch = -(-len(plan.data.splits["train"]) // 8)
    assert visits(plan, 2 * per_epoch + 1 if "eval_steps" not in train else 20, 1) == expected


def test_a_second_model_is_held_and_asked(
    backbone: Any, toy: Path, steady: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frozen copy of an anchor: its weights, and a forward pass a step."""
    monkeypatch.setattr(estimating, "unused", lambda *_: {})
    full, anchored = (estimate(planned(backbone("bert"), toy, adapt=method)) for method in ("full", "anchor"))
    weights = 4 * planned(backbone("bert"), toy).parameters
    assert anchored.memory - full.memory == weights
    assert anchored.seconds > full.seconds


def test_nothing_that_trains_costs_no_more_than_the_scores(backbone: Any, toy: Path, steady: None) -> None:
    none, full = (estimate(planned(backbone("bert"), toy, adapt=method)) for method in ("none", "full"))
    assert 0 < none.seconds < full.seconds
    assert 0 < none.memory < full.memory


def test_embeddings_that_no_text_names_have_no_gradient_and_no_moments(
    backbone: Any, toy: Path, steady: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as in the run itself, where planning saw all rows."""
    full, frozen = planned(backbone("bert"), toy), planned(backbone("bert"), toy, adapt={"method": "partial", "top": 1})
    probe, name = Probe(full, CPU), "bert.embeddings.word_embeddings.weight"
    found = unused(full, probe.imagined, probe.rows)
    rows = full.data.splits["train"]["text"]
    tokens = {i for text in rows for i in full.processor(text)["input_ids"]} | set(full.processor.all_special_ids)
    width = full.config.hidden_size
    assert found == {name: full.sizes[name] - len(tokens) * width} and found[name] > 0
    less, none = estimate(full), estimate(frozen)
    monkeypatch.setattr(estimating, "unused", lambda *_: {})
    assert estimate(full).memory - less.memory == 3 * 4 * found[name] and estimate(full).seconds > less.seconds
    assert estimate(frozen) == none
