"""Pretraining before the task: what is masked, what moves, what stays, after a kill and on two processes."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import hfadapt
from hfadapt import discover, pretraining
from hfadapt.adapting import build, load_model
from hfadapt.backbones.base import Family, anatomy
from hfadapt.console import Console
from hfadapt.errors import HfadaptError
from hfadapt.folder import Run
from hfadapt.noise import quiet
from hfadapt.planning import Plan
from hfadapt.recipe import Recipe
from hfadapt.showing import plan_dict, plan_lines
from hfadapt.tasks._pretraining import MaskedPictures, MaskedText
from hfadapt.training.rows import Rows, Visits
from hfadapt.training.watching import Journal

FAMILIES = [its for its in discover.facts("hfadapt.backbones", Family).values() if its.modality != "image-text"]
MASKED = {"albert", "bert", "deberta-v2", "deit", "distilbert", "electra", "modernbert", "roberta", "swin", "vit"}
TRAIN = {"max_steps": 2, "per_device_train_batch_size": 8, "logging_steps": 1}
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def recipe(model: Path, data: dict | Path, task: str = "text-classification", inner: str = "full", **options) -> Recipe:
    data = data if isinstance(data, dict) else {"path": str(data), "text": "text", "label": "label"}
    train = TRAIN | options.pop("train", {})
    adapt = {"method": "pretrain", "inner": inner, "epochs": 1, "batch_size": 16, **options}
    return Recipe(task=task, model=str(model), data=data, adapt=adapt, train=train)


@pytest.fixture
def of_family(backbone, few, pictures):
    def made(family: Family, **options) -> Recipe:
        kind = family.model_types[0]
        if family.modality == "image":
            return recipe(backbone(kind), {"path": str(pictures)}, "image-classification", **options)
        return recipe(backbone(kind), few, **options)

    return made


def pretrained(plan: Plan, folder: Path) -> Run:
    """A run folder in which only the pretraining was carried out."""
    run = Run(folder)
    folder.mkdir(exist_ok=True)
    with quiet():
        journal = Journal(folder / "log.jsonl", None)
        pretraining.carry_out(plan.pretraining, plan.processor, run.checkpoints, journal, resume=False)
    return run


def weights(run: Run) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(run.model / "model.safetensors")


def losses(run: Run, stage: str) -> list[float]:
    events = map(json.loads, (run.path / "log.jsonl").read_text().splitlines())
    return [e["loss"] for e in events if e["event"] == "trained" and e["stage"] == stage]


def test_every_family_is_known_to_have_a_masked_model_or_not():
    kinds = {its.model_types[0] for its in FAMILIES}
    assert kinds > MASKED
    mappings = (transformers.AutoModelForMaskedLM, transformers.AutoModelForMaskedImageModeling)
    for kind in kinds:
        config = type(transformers.AutoConfig.for_model(kind))
        assert any(config in its._model_mapping for its in mappings) == (kind in MASKED), kind


@pytest.mark.parametrize("family", FAMILIES, ids=lambda its: its.model_types[0])
def test_the_body_goes_over_whole_and_the_rest_stays(family, of_family, tmp_path):
    kind = family.model_types[0]
    if kind not in MASKED:
        what = "masked-image model" if family.modality == "image" else "masked language model"
        with pytest.raises(HfadaptError, match=f"adapt.method: '{kind}' has no {what} in transformers."):
            hfadapt.plan(of_family(family))
        return
    plan = hfadapt.plan(of_family(family, learning_rate=1e-2, epochs=2))
    run = pretrained(plan, tmp_path)
    with quiet():
        transformers.set_seed(0)
        before = load_model(plan)[0].state_dict()
        transformers.set_seed(0)
        after = build(plan, run)[0].state_dict()
        folder = run.checkpoints / "pretrained"
        auto = getattr(transformers, plan.recipe.task.auto_class)
        loaded, found = auto.from_pretrained(folder, output_loading_info=True)
    body = {name for part in (plan.anatomy.embeddings, *plan.anatomy.blocks) for name in part.parameters}
    # The keys' bias has no gradient but by rounding; one batch of rows has not every token.
    moved = {name for name in body if not torch.equal(before[name], after[name])}
    assert len(moved) > 0.8 * len(body)
    assert all(torch.equal(after[name], loaded.state_dict()[name]) for name in body)
    assert not body & set(found["missing_keys"])
    own = [name for name in after if "pooler" in name or "classifier" in name]
    assert own
    assert all(torch.equal(before[name], after[name]) for name in own)


def test_everything_of_a_masked_model_gets_a_gradient(of_family):
    """Or DistributedDataParallel would wait for it."""
    for family in FAMILIES:
        if family.model_types[0] in MASKED:
            with quiet():
                plan = hfadapt.plan(of_family(family))
                asked = plan.pretraining
                model, _ = asked.model()
                training = pretraining._training(asked, plan.processor, Path("unused"))
                batch = training.collator([training.train[i] for i in range(8)])
                targets = batch.pop("labels")
                training.loss(model(**batch), targets).backward()
            still = [n for n, p in model.named_parameters() if p.grad is None and n in anatomy(model).everything]
            assert not still, family.model_types[0]


def test_the_loss_is_that_of_the_model_itself(of_family):
    for family in FAMILIES:
        if family.model_types[0] in {"bert", "modernbert", "vit", "swin"}:
            with quiet():
                plan = hfadapt.plan(of_family(family))
                asked = plan.pretraining
                model = asked.model()[0].eval()
                training = pretraining._training(asked, plan.processor, Path("unused"))
                batch = training.collator([training.train[i] for i in range(4)])
                targets = batch.pop("labels")
                with torch.no_grad():
                    ours = training.loss(model(**batch), targets)
                    theirs = model(**batch, labels=targets) if family.modality == "text" else model(**batch)
            assert float(ours) == pytest.approx(float(theirs.loss), rel=1e-5)


@pytest.fixture(scope="module")
def words(backbone):
    return transformers.AutoTokenizer.from_pretrained(backbone("bert"))


def text_rows(words, number: int = 40, seed: int = 1) -> Rows:
    import datasets

    draw = np.random.default_rng(0)
    ids = [[0, *draw.integers(5, len(words), 30).tolist(), words.unk_token_id, 2] for _ in range(number)]
    table = datasets.Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * len(its) for its in ids]})
    task = MaskedText(task=None, share=0.3, words=len(words))
    from hfadapt.data.labels import Labels

    return Rows(table, visit=Visits(task, words, table, Labels("number"), seed, trains=True))


def test_the_share_of_tokens_that_is_masked_and_how(words):
    rows = text_rows(words, 400)
    before = np.array(rows.table["input_ids"])
    seen = [rows[i] for i in range(len(rows))]
    after, targets = (np.array([row[name] for row in seen]) for name in ("input_ids", "labels"))
    chosen = targets != -100
    assert (chosen.sum(1) == 9).all(), "30% of the 30 tokens that are not special"
    assert not chosen[:, [0, -2, -1]].any(), "special tokens are spared, the unknown one too"
    assert (targets[chosen] == before[chosen]).all()
    assert (after[~chosen] == before[~chosen]).all()
    masked, same = (after == words.mask_token_id)[chosen].mean(), (after == before)[chosen].mean()
    assert masked == pytest.approx(0.8, abs=0.03)
    assert same == pytest.approx(0.1, abs=0.03)
    other = chosen & (after != words.mask_token_id)
    assert not np.isin(after[other], words.all_special_ids).any()


def test_what_is_masked_depends_on_seed_epoch_and_row_alone(words):
    one, again, other = text_rows(words), text_rows(words), text_rows(words, seed=2)
    size = len(one)
    assert [one[i] for i in range(size)] == [again[i] for i in reversed(range(size))][::-1]
    assert one[3] != one[3 + 2 * size], "another epoch"
    assert one[3] != other[3], "another seed"
    ghost = one[3 + size]
    assert ghost["input_ids"] == one[3]["input_ids"]
    assert set(ghost["labels"]) == {-100}


def test_targets_are_padded_on_the_side_of_the_tokens(words):
    rows = text_rows(words)
    short = {name: values[:5] for name, values in rows[1].items()}
    for side in ("right", "left"):
        words.padding_side = side
        batch = MaskedText(task=None, share=0.3, words=9).collator(words)([rows[0], short])
        part = slice(5) if side == "right" else slice(-5, None)
        assert batch["labels"][1][part].tolist() == short["labels"]
        assert batch["input_ids"][1][part].tolist() == short["input_ids"]
        assert (batch["labels"][1] == -100).sum() == 28 + short["labels"].count(-100)
    words.padding_side = "right"


@pytest.mark.parametrize(
    ("patches", "block", "masked"),
    [(14, 2, 30 / 49), (56, 8, 30 / 49), (48, 8, 22 / 36), (6, 1, 22 / 36), (4, 1, 10 / 16)],
)
def test_blocks_of_a_picture_are_masked_whole(patches, block, masked):
    task = MaskedPictures(task=None, share=0.6, patches=patches, patch=4)
    mask = task.mask(np.random.default_rng(0))
    assert mask.shape == (patches, patches)
    assert mask.mean() == pytest.approx(masked)
    blocks = mask.reshape(patches // block, block, patches // block, block).swapaxes(1, 2).reshape(-1, block**2)
    assert (blocks.all(1) | ~blocks.any(1)).all()
    assert not (mask == task.mask(np.random.default_rng(1))).all()


def test_only_masked_pixels_are_targets(of_family):
    family = next(its for its in FAMILIES if its.model_types[0] == "vit")
    with quiet():
        plan = hfadapt.plan(of_family(family))
        rows = pretraining._training(plan.pretraining, plan.processor, Path("unused")).train
    row, patch = rows[0], plan.config.patch_size
    mask = np.kron(row["bool_masked_pos"].reshape(4, 4), np.ones((patch, patch))).astype(bool)
    assert ((row["labels"] != -100) == mask).all()
    assert (row["labels"][:, mask] == row["pixel_values"][:, mask]).all()
    ghost = rows[len(rows)]
    assert (ghost["labels"] == -100).all()
    assert (ghost["pixel_values"] == row["pixel_values"]).all()


def test_the_loss_falls_and_the_plan_tells_of_it(backbone, toy, tmp_path):
    plan = hfadapt.plan(recipe(backbone("bert"), toy, path=str(toy), text="text", epochs=12, learning_rate=1e-2))
    listed = plan_dict(plan)["pretraining"]
    assert listed | {"from": "toy"} == {
        "rows": 64,
        "from": "toy",
        "masked": 0.15,
        "epochs": 12.0,
        "steps": 48,
        "learning_rate": 1e-2,
        "batch_size": 16,
        "trainable": listed["trainable"],
        "new": listed["new"],
    }
    assert 0 < listed["new"] < listed["trainable"]
    line = next(line for line in plan_lines(plan) if line.startswith("first"))
    assert "15% of the tokens masked; 12 epochs, 48 steps of 16 rows a process at 0.01" in line
    found = losses(pretrained(plan, tmp_path), "pretrain")
    assert len(found) == 48
    assert sum(found[-8:]) < 0.8 * sum(found[:8])


def test_a_checkpoint_with_its_own_masked_head_starts_from_it(tmp_path, few):
    from conftest import TEXTS

    from hfadapt import tiny

    with quiet():
        tiny.checkpoint(tmp_path / "model", "bert", TEXTS, auto_class="AutoModelForMaskedLM")
        plan = hfadapt.plan(recipe(tmp_path / "model", few))
    assert plan.pretraining.new == 0


@pytest.fixture
def plain(monkeypatch):
    """Baselines and charts take half of so small a run; other tests look at them."""
    monkeypatch.setattr("hfadapt.judging.compare", lambda _: {})
    monkeypatch.setattr("hfadapt.judging.draw", lambda *_: None)


def test_a_killed_run_goes_on_bit_for_bit(backbone, toy, tmp_path, plain):
    """Killed in the pretraining, resumed, killed in the second stage, resumed; with dropout on."""
    train = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    plan = hfadapt.plan(recipe(backbone("bert"), toy, inner="lp-ft", learning_rate=1e-3, train=train))
    assert plan.pretraining.steps == 4
    whole, cut = hfadapt.adapt(plan, tmp_path / "whole"), tmp_path / "cut"

    def killing(stage: str, step: int):
        def kill(event):
            if event["event"] == "step" and event["stage"] == stage and event["step"] == step:
                raise KeyboardInterrupt

        return kill

    def left() -> set[str]:
        return {its.name for its in (cut / "checkpoints").iterdir()}

    with pytest.raises(KeyboardInterrupt):
        hfadapt.adapt(plan, cut, listener=killing("pretrain", 3))
    assert left() == {"pretraining"}
    with pytest.raises(KeyboardInterrupt):
        hfadapt.adapt(plan, resume=cut, listener=killing("tune", 5))
    assert left() == {"pretrained", "0-probe", "1-tune"}
    resumed = hfadapt.adapt(plan, resume=cut)
    one, two = weights(whole), weights(resumed)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert losses(resumed, "pretrain") == losses(whole, "pretrain")
    assert not resumed.checkpoints.exists()


def test_rows_from_elsewhere(backbone, few, pictures, tmp_path):
    import csv

    given = {
        split: [row["text"] for row in csv.DictReader((few / f"{split}.csv").open())] for split in ("train", "test")
    }
    texts = [*given["train"][:3], *given["test"][:2], " ", None]
    path = tmp_path / "more.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    with pytest.raises(HfadaptError, match="The text is missing"):
        hfadapt.plan(recipe(backbone("bert"), few, path=str(path)))
    data = {"path": str(few), "text": "text", "label": "label", "on_bad_row": "skip"}
    plan = hfadapt.plan(recipe(backbone("bert"), data, path=str(path)))
    assert len(plan.pretraining.rows) == 5
    said = " ".join(its.says for its in plan.findings)
    assert "1 unlabelled text left out" in said
    assert f"1 unlabelled row skipped, {path}:7 first: The text is missing." in said
    assert "Of 5 unlabelled rows, 2 can be found in test too" in said
    assert "in validation too" not in said

    images = {"path": str(pictures)}
    plan = hfadapt.plan(recipe(backbone("vit"), images, "image-classification", path=str(pictures / "test" / "round")))
    assert len(plan.pretraining.rows) == 4
    assert any("4 can be found in test too" in its.says for its in plan.findings)
    plan = hfadapt.plan(recipe(backbone("vit"), images, "image-classification", path=str(pictures)))
    assert len(plan.pretraining.rows) == 27, "the training split alone"
    plan = hfadapt.plan(recipe(backbone("bert"), few, path="builtin/review-pairs", text="text_pair"))
    assert len(plan.pretraining.rows) == 1760


def test_pairs_are_pretrained_on_as_pairs(backbone, few):
    data = {"path": str(few), "text": "text", "text_pair": "other", "label": "label"}
    plan = hfadapt.plan(recipe(backbone("bert"), data))
    assert plan.pretraining.rows.column_names == ["text", "text_pair"]
    with quiet():
        row = pretraining._training(plan.pretraining, plan.processor, Path("unused")).train[0]
    assert row["input_ids"].count(plan.processor.sep_token_id) == 3


def test_rows_of_which_nothing_can_be_masked_are_left_out(backbone, few, tmp_path):
    plan = hfadapt.plan(recipe(backbone("bert"), few))
    processor = plan.processor
    rows = plan.pretraining.rows
    empty = processor("")["input_ids"]
    assert not plan.pretraining.task.fits({"input_ids": empty}, processor)
    assert plan.pretraining.task.fits({"input_ids": processor(rows[0]["text"])["input_ids"]}, processor)
    assert (
        len(
            pretraining._encoded(
                rows.map(lambda row, i: {"text": row["text"] if i else ""}, with_indices=True),
                plan.pretraining.task,
                processor,
            )
        )
        == len(rows) - 1
    )


def test_arguments_of_the_task_say_nothing_of_the_pretraining(backbone, few):
    train = {
        "learning_rate": 7e-4,
        "gradient_accumulation_steps": 2,
        "warmup_steps": 900,
        "early_stopping_patience": 2,
        "lr_scheduler_type": "cosine",
        "label_smoothing_factor": 0.1,
        "weight_decay": 0.2,
        "seed": 5,
    }
    settled = hfadapt.plan(recipe(backbone("bert"), few, train=train)).pretraining.settled
    assert (settled["learning_rate"], settled["warmup_steps"], settled["eval_strategy"]) == (5e-5, 0.1, "no")
    assert (settled["weight_decay"], settled["seed"]) == (0.2, 5)
    assert settled.keys().isdisjoint(train.keys() - {"learning_rate", "warmup_steps", "weight_decay", "seed"})
    assert not settled["load_best_model_at_end"]


def test_progress_begins_anew_after_the_pretraining():
    stream = io.StringIO()
    console = Console(stream)
    for stage, steps in (("pretrain", 4), ("full", 10)):
        for step in range(1, steps + 1):
            console({"event": "step", "stage": stage, "step": step, "steps": steps})
    lines = stream.getvalue().splitlines()
    assert len(lines) == 14
    assert "25%  step 1/4" in lines[0]
    assert "10%  step 1/10" in lines[4]
    assert not any("-" in line for line in lines)


def test_one_method_pretrains(backbone, few):
    inner = {"method": "pretrain"}
    with pytest.raises(HfadaptError, match="One method pretrains already"):
        hfadapt.plan(recipe(backbone("bert"), few, inner=inner))


def test_it_may_be_inside_another_method_and_begin_from_nothing(backbone, few):
    values = recipe(backbone("bert"), few).model_dump(exclude_unset=True)
    values["adapt"] = {"method": "ema", "inner": {"method": "pretrain", "inner": "from-scratch", "epochs": 2}}
    first = hfadapt.plan(Recipe(**values)).pretraining
    assert first.settled["num_train_epochs"] == 2
    assert first.new == first.trainable, "all of it starts at random"
    with quiet():
        one, two = (first.model(dtype=torch.float32)[0].state_dict() for _ in range(2))
    assert any(not torch.equal(one[name], two[name]) for name in one)
