"""What the `train` section becomes, and where it depends on the machine."""

from __future__ import annotations

import pytest
from transformers import TrainingArguments

import hfadapt
from hfadapt import settings
from hfadapt.recipe import Recipe
from hfadapt.settings import of_machine, resolve
from hfadapt.showing import settings_with_origin
from hfadapt.training.trainer import one_device


@pytest.fixture
def tensor_cores(monkeypatch):
    """As if there were a GPU that computes in bfloat16."""
    monkeypatch.setattr(settings, "has_bfloat16", lambda: True)


@pytest.fixture
def recipe(backbone, toy):
    def made(model=None, adapt="full", **train):
        return Recipe(
            task="text-classification",
            model={"name": str(backbone("bert")), **(model or {})},
            data={"path": str(toy), "text": "text", "label": "label"},
            adapt=adapt,
            train=train,
        )

    return made


def test_a_gpu_with_tensor_cores_computes_in_bfloat16(tensor_cores, recipe):
    plan = hfadapt.plan(recipe())
    value, origin = settings_with_origin(plan)["bf16"]
    assert value is True and "this GPU" in origin


def test_nothing_else_does(recipe):
    assert "bf16" not in hfadapt.plan(recipe()).settled


@pytest.mark.parametrize("train", [{"bf16": False}, {"fp16": True}, {"bf16_full_eval": True}, {"deepspeed": "x.json"}])
def test_who_chose_a_precision_has_it(tensor_cores, train):
    assert of_machine(train) == {}
    assert resolve(train, "accuracy", lambda _: True, of_machine(train)).items() >= train.items()


@pytest.mark.parametrize(("launcher", "expected"), [("fp16", {}), ("fp8", {}), ("no", {"bf16": True})])
def test_so_has_who_chose_it_with_accelerate(tensor_cores, monkeypatch, launcher, expected):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)
    assert of_machine({}) == expected


def test_weights_in_half_precision_are_computed_with_as_they_are(tensor_cores, recipe):
    assert "bf16" not in hfadapt.plan(recipe({"dtype": "bfloat16"})).settled


def test_what_depends_on_the_machine_gives_way_to_the_recipe():
    assert of_machine({}, workers=3) == {"dataloader_num_workers": 3}
    settled = resolve({"dataloader_num_workers": 0}, "accuracy", lambda _: True, of_machine({}, workers=3))
    assert settled["dataloader_num_workers"] == 0


@pytest.mark.parametrize(
    ("adapt", "rate"),
    [
        ("full", None),
        ("layerwise", None),
        ("linear-probe", 1e-3),
        ("lora", 5e-4),
        ({"method": "ia3"}, 3e-3),
        ({"method": "wise-ft", "inner": "linear-probe"}, 1e-3),
        ({"method": "wise-ft", "inner": {"method": "ema", "inner": "lora"}}, 5e-4),
        ({"method": "wise-ft", "inner": "full"}, None),
    ],
    ids=str,
)
def test_a_method_by_which_little_moves_brings_its_learning_rate(adapt, rate, recipe):
    """Upstream's 5e-5 would leave a new head where it began."""
    plan = hfadapt.plan(recipe(adapt=adapt))
    assert plan.settled.get("learning_rate") == rate
    if rate:
        value, origin = settings_with_origin(plan)["learning_rate"]
        assert value == rate and origin.startswith("hfadapt default: what moves here is little or new")
    given = hfadapt.plan(recipe(adapt=adapt, learning_rate=2e-5))
    assert settings_with_origin(given)["learning_rate"] == (2e-5, "Python")


@pytest.mark.parametrize(("adapt", "rate"), [("linear-probe", None), ("norm", None), ("lora", 5e-4), ("coop", 3e-3)])
def test_projections_that_were_pretrained_are_no_new_head(adapt, rate, backbone, pictures):
    captions = {split: str(pictures / split / "captions.csv") for split in ("train", "validation", "test")}
    data = captions | {"path": captions.pop("train"), "image": "file", "text": "text"}
    made = Recipe(task="image-text-contrastive", model=str(backbone("clip")), data=data, adapt=adapt)
    assert hfadapt.plan(made).settled.get("learning_rate") == rate


def test_a_process_trains_on_one_device(tmp_path):
    """Also where it sees several; which of them there are is an attribute of transformers' own."""
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    assert arguments.n_gpu == 0
    one_device(arguments)
    assert arguments.n_gpu == 0
    arguments._n_gpu = 3
    assert arguments.n_gpu == 3 and arguments.train_batch_size == 3 * arguments.per_device_train_batch_size
    one_device(arguments)
    assert arguments.n_gpu == 1 and arguments.train_batch_size == arguments.per_device_train_batch_size


def test_batches_are_not_dispatched(recipe):
    with pytest.raises(ValueError, match="Leave out dispatch_batches"):
        recipe(accelerator_config={"dispatch_batches": True})
    hfadapt.plan(recipe(accelerator_config={"dispatch_batches": False}))
