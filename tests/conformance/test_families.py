"""Promises × families: adapts, learns, saves, and plain transformers reloads the same logits."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hfadapt
from hfadapt import discover
from hfadapt.backbones.base import Family
from hfadapt.methods.base import Adaptation
from hfadapt.recipe import Recipe

KINDS = sorted(
    f.model_types[0] for f in discover.facts("hfadapt.backbones", Family).values() if f.modality == "text"
)
METHODS = sorted(discover.variants("hfadapt.methods", Adaptation))
OPTIONS = {"partial": {"top": 1}, "lora": {"r": 2}}

RELOAD = """
import json, sys
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
import torch
found = {}
for folder in sys.argv[2:]:
    model, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = json.load(open(sys.argv[1]))
    with torch.no_grad():
        logits = model.eval()(**tokenizer(texts, truncation=True, padding=True, return_tensors="pt")).logits
    answers = pipeline("text-classification", folder)(texts, truncation=True)
    labels = [a["label"] for a in answers]
    found[folder] = {"logits": logits.tolist(), "missing": sorted(info["missing_keys"]), "labels": labels}
assert "hfadapt" not in sys.modules
json.dump(found, sys.stdout)
"""


def auto_class(kind: str) -> str:
    """Checkpoints as they are published: without a pooler where the pretraining has none."""
    return "AutoModelForCausalLM" if kind in {"gpt2", "llama"} else "AutoModelForMaskedLM"


def run_of(kind: str, method: str, backbone, few: Path, folder: Path):
    options = OPTIONS.get(method, {})
    rate, steps = {"linear-probe": (1e-2, 80), "lora": (2e-2, 30)}.get(method, (4e-3, 20))
    recipe = Recipe(
        task="text-classification",
        model=str(backbone(kind, auto_class(kind))),
        data={"path": str(few), "text": "text", "label": "label"},
        adapt={"method": method, **options},
        train={
            "max_steps": steps,
            "learning_rate": rate,
            "per_device_train_batch_size": 16,
            "logging_steps": 1,
            "warmup_steps": 0,
            "eval_strategy": "no",
            "save_strategy": "no",
        },
    )
    made = hfadapt.plan(recipe)
    return made, hfadapt.adapt(made, folder / f"{kind}-{method}")


@pytest.fixture(scope="module", params=KINDS)
def runs(request, backbone, few, tmp_path_factory):
    """A finished run of every method on one family."""
    folder = tmp_path_factory.mktemp(request.param)
    return {method: run_of(request.param, method, backbone, few, folder) for method in METHODS}


def test_there_is_something_to_test():
    assert len(KINDS) >= 9
    assert {"full", "linear-probe", "partial", "lora"} <= set(METHODS)


def test_learns(runs, few):
    """The rows that it was trained on surprise it less than a coin's tosses would, by more than rounding."""
    with (few / "train.csv").open(encoding="utf-8") as file:
        labels = [row["label"] for row in csv.DictReader(file)]
    for method, (_, run) in runs.items():
        answers = hfadapt.predict(run, few / "train.csv")
        given = [
            a["probability"] if a["label"] == y else 1 - a["probability"] for a, y in zip(answers, labels, strict=True)
        ]
        assert -np.mean(np.log(given)) < np.log(2) - 1e-3, method


def test_every_new_tensor_trains(runs):
    for method, (made, _) in runs.items():
        moving = {name for stage in made.stages for name in stage.speeds}
        for name in made.anatomy.head:
            owner = name.rpartition(".")[0]
            assert name in moving or any(owner in n and "modules_to_save" in n for n in moving), (method, name)


def test_plain_transformers_reloads_the_same_logits_and_labels(runs, toy, tmp_path):
    """In a fresh process that never hears of hfadapt."""
    with toy.open(encoding="utf-8") as file:
        texts = [row["text"] for row in csv.DictReader(file)][:12]
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    folders = [str(run.model) for _, run in runs.values()]
    done = subprocess.run(
        [sys.executable, "-c", RELOAD, str(tmp_path / "texts.json"), *folders], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    for method, (_, run) in runs.items():
        plain = found[str(run.model)]
        assert plain["missing"] == [], method
        assert set(plain["labels"]) <= {"good", "bad"}, method
        ours = list(hfadapt.predict(run, tmp_path / "texts.jsonl"))
        logits = np.array(plain["logits"])
        probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        assert [a["label"] for a in ours] == plain["labels"], method
        assert np.allclose([a["probability"] for a in ours], probabilities.max(-1), atol=1e-5), method


def test_an_adapter_reloads_through_peft_with_the_same_logits(runs, backbone):
    """Merged within 1e-5 of the adapter, head included."""
    import peft
    import torch
    from transformers import AutoModelForSequenceClassification

    from hfadapt.noise import quiet

    made, run = runs["lora"]
    with quiet():
        plain = AutoModelForSequenceClassification.from_pretrained(run.model).eval()
        base = AutoModelForSequenceClassification.from_pretrained(made.source.path, config=plain.config)
        adapted = peft.PeftModel.from_pretrained(base, run.path / "adapter").eval()
    inputs = made.processor(["a wonderful stone", "dreadful paper in the garden"], padding=True, return_tensors="pt")
    with torch.no_grad():
        assert torch.allclose(plain(**inputs).logits, adapted(**inputs).logits, atol=1e-5)
