"""Twelve faults planted in copies of finished runs, and some more: the contract check names each of them."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

import hfadapt
from hfadapt import adapting, judging, tiny
from hfadapt.contract import check_all
from hfadapt.noise import quiet
from hfadapt.recipe import Recipe

OTHER_WORDS = ["Quartz judges vex five boxing wizards.", "Sphinx of black basalt, heed my vow!"] * 4
LIMIT = 40
"""Tokens of a text; some have more."""


@pytest.fixture(scope="module")
def runs(backbone, toy, pictures, tmp_path_factory):
    """By name the folders of runs: an adapter on a backbone without a pooler, learnt prompts, pictures, and a head that
    nobody trained. Beside them an adapter of a backbone of the same shape, with other weights and words."""
    folder, made = tmp_path_factory.mktemp("finished"), {}
    base = Path(shutil.copytree(backbone("bert", "AutoModelForMaskedLM"), folder / "base"))
    with quiet():
        other = tiny.checkpoint(folder / "other", "bert", OTHER_WORDS, auto_class="AutoModelForMaskedLM", seed=1)
    texts = {"path": str(toy), "text": "text", "label": "label"}
    asked = {
        "adapter": (base, "lora", texts),
        "prompts": (base, {"method": "prompt-tuning", "tokens": 3}, texts),
        "pictures": (backbone("vit"), "full", {"path": str(pictures)}),
        "untrained": (base, {"stages": [{"train": "blocks"}]}, texts),
    }
    gc.freeze()  # The Trainer collects garbage; all that was imported need not be searched each time.
    with pytest.MonkeyPatch.context() as patch:
        # Charts and baselines take half of so small a run.
        patch.setattr(judging, "draw", lambda *_: None)
        patch.setattr(judging, "compare", lambda *_: {})
        patch.setattr(adapting, "write_card", lambda *_: None)
        for name, (model, adapt, data) in asked.items():
            task = {"type": "text-classification", "max_length": LIMIT} if data is texts else "image-classification"
            train = {"max_steps": 3, "learning_rate": 1e-2, "warmup_steps": 0}
            recipe = Recipe(task=task, model=str(model), data=data, adapt=adapt, train=train)
            made[name] = hfadapt.adapt(hfadapt.plan(recipe), folder / name).path
    with quiet():
        model = AutoModelForSequenceClassification.from_pretrained(other, num_labels=2)
        config = peft.PeftConfig.from_pretrained(made["adapter"] / "adapter")
        peft.get_peft_model(model, config).save_pretrained(folder / "elsewhere")
    return made


def change(file: Path, **values) -> None:
    """Set values of a JSON file; None takes one out."""
    content = json.loads(file.read_text()) | values
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def weights(folder: Path, changed: Callable[[str, torch.Tensor], torch.Tensor | None]) -> None:
    """Change the tensors of a folder's only file of weights, or leave out those for which None comes."""
    (file,) = folder.glob("*.safetensors")
    tensors = {name: changed(name, tensor) for name, tensor in load_file(file).items()}
    save_file({name: its.contiguous() for name, its in tensors.items() if its is not None}, file, {"format": "pt"})


def drop(run: Path, folder: str, word: str) -> None:
    weights(run / folder, lambda name, tensor: None if word in name else tensor)


def permute(run: Path) -> None:
    names = list(json.loads((run / CONFIG).read_text())["id2label"].values())[::-1]
    change(run / CONFIG, id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)})


def halve(run: Path) -> None:
    weights(run / "model", lambda _, tensor: tensor.half())
    change(run / CONFIG, dtype="float16")


def put_tokenizer(source: str, run: Path) -> None:
    for file in (run.parent / source).glob("*token*"):
        shutil.copy(file, run / "model" / file.name)
    change(run / TOKENIZER, model_max_length=LIMIT)


def put_adapter(source: str, run: Path) -> None:
    shutil.rmtree(run / "adapter")
    shutil.copytree(run.parent / source, run / "adapter")


def move_base(run: Path) -> None:
    """The recipe names a folder in which another checkpoint lies by now."""
    shutil.copytree(run.parent / "base", run.parent / "moved")
    weights(run.parent / "moved", lambda _, tensor: tensor + 1)
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(str(run.parent / "base"), str(run.parent / "moved")))


def nudge(run: Path) -> None:
    """The smallest change that a weight can have."""
    least = torch.tensor(torch.inf)
    weights(run / "model", lambda name, its: torch.nextafter(its, least) if name == "classifier.bias" else its)


CONFIG, TOKENIZER, PICTURES = (f"model/{n}config.json" for n in ("", "tokenizer_", "preprocessor_"))
WEIGHTS, VOCABULARY, ADAPTER = "model/model.safetensors", "model/tokenizer.json", "adapter/adapter_model.safetensors"
Fault = tuple[str, Callable[[Path], None], str]
TWELVE: dict[str, Fault] = {
    "head dropped": (
        "adapter",
        lambda run: drop(run, "model", "classifier"),
        f"{WEIGHTS}: It lacks 2 tensors, 'classifier.bias' first: loading lets them begin at random.",
    ),
    "pooler not saved": (
        "adapter",
        lambda run: drop(run, "model", "pooler"),
        f"{WEIGHTS}: It lacks 2 tensors, 'bert.pooler.dense.bias' first: loading lets them begin at random.",
    ),
    "labels permuted": (
        "adapter",
        permute,
        f"{CONFIG}: The labels are 'good', 'bad'; training had 'bad', 'good', in this order.",
    ),
    "mean and deviation changed": (
        "pictures",
        lambda run: change(run / PICTURES, image_mean=[0.4, 0.5, 0.5], image_std=[0.2, 0.5, 0.5]),
        f"{PICTURES}: image_mean is [0.4, 0.5, 0.5]; training had [0.5, 0.5, 0.5].",
    ),
    "interpolation changed": (
        "pictures",
        lambda run: change(run / PICTURES, resample=0),
        f"{PICTURES}: resample is 0; training had 2.",
    ),
    "tokenizer of another vocabulary": (
        "adapter",
        lambda run: put_tokenizer("other", run),
        f"{VOCABULARY}: The vocabulary is another one: it has ",
    ),
    "padding side flipped": (
        "adapter",
        lambda run: change(run / TOKENIZER, padding_side="left"),
        f'{TOKENIZER}: padding_side is "left"; training had "right".',
    ),
    "max_length changed": (
        "adapter",
        lambda run: change(run / TOKENIZER, model_max_length=64),
        f"{TOKENIZER}: model_max_length is 64; training had {LIMIT}.",
    ),
    "adapter of another base": (
        "adapter",
        lambda run: put_adapter("elsewhere", run),
        "adapter/adapter_config.json: Its base is '",
    ),
    "dtype halved": ("adapter", halve, f"{WEIGHTS}: The weights are float16; training left float32."),
    "stale processor": (
        "prompts",
        lambda run: put_tokenizer("base", run),
        f"{VOCABULARY}: The vocabulary is another one: it has ",
    ),
    "id2label missing": (
        "adapter",
        lambda run: change(run / CONFIG, id2label=None, label2id=None),
        f"{CONFIG}: id2label is missing: the model answers 'LABEL_0', 'LABEL_1', and training had 'bad', 'good'.",
    ),
}
MORE: dict[str, Fault] = {
    "head of the adapter dropped": (
        "adapter",
        lambda run: drop(run, "adapter", "classifier"),
        f"{ADAPTER}: It lacks 2 tensors, 'base_model.model.classifier.bias' first.",
    ),
    "another base under the name": (
        "adapter",
        move_base,
        "adapter/: The base that the recipe names is not the one that was adapted: 37 of 37 tensors differ, ",
    ),
    "no adapter": (
        "adapter",
        lambda run: shutil.rmtree(run / "adapter"),
        "adapter/: There is no adapter: adapter_config.json is missing.",
    ),
    "the last bit of a bias": (
        "adapter",
        nudge,
        f"{WEIGHTS}: The values of 'classifier.bias' are not those that training left.",
    ),
    "another activation": (
        "pictures",
        lambda run: change(run / CONFIG, hidden_act="relu"),
        "model/: For the same inputs its outputs differ by up to ",
    ),
    "kind of problem": (
        "adapter",
        lambda run: change(run / CONFIG, problem_type="multi_label_classification"),
        f"{CONFIG}: problem_type is multi_label_classification; training had single_label_classification.",
    ),
    "weights cut short": (
        "pictures",
        lambda run: (run / WEIGHTS).write_bytes((run / WEIGHTS).read_bytes()[:-100]),
        "model/: It does not load through AutoModelForImageClassification: ",
    ),
    "no processor": ("pictures", lambda run: (run / PICTURES).unlink(), "model/: The processor does not load: "),
    "a head that nobody trained": (
        "untrained",
        lambda run: None,
        f"{WEIGHTS}: Training never moved 4 tensors, 'bert.pooler.dense.bias' first, which began at random.",
    ),
}
CONTROLS = ("adapter", "prompts", "pictures")


@pytest.fixture(scope="module")
def found(runs):
    """By the name of the fault, or of the run where there is none: what the check of it says."""
    folders = {name: runs[name] for name in CONTROLS}
    for name, (run, plant, _) in (TWELVE | MORE).items():
        folders[name] = Path(shutil.copytree(runs[run], runs[run].parent / name.replace(" ", "-")))
        plant(folders[name])
    checked = check_all(list(folders.values()))
    return {name: [str(problem) for problem in its.problems] for name, its in zip(folders, checked, strict=True)}


@pytest.mark.parametrize("name", CONTROLS)
def test_without_a_fault_there_is_no_finding(name, found):
    assert found[name] == []


def test_there_are_twelve():
    assert len(TWELVE) == 12


@pytest.mark.parametrize("name", TWELVE | MORE)
def test_a_fault_is_named(name, found):
    print(*found[name], sep="\n")
    (wanted,) = (its[2] for fault, its in (TWELVE | MORE).items() if fault == name)
    assert any(problem.startswith(wanted) for problem in found[name])
    assert len(found[name]) <= 7
    assert all(problem.count("\n") == 0 and len(problem) < 400 and problem.endswith(".") for problem in found[name])


@pytest.mark.parametrize(
    ("name", "also"),
    [
        ("head dropped", "model/: For the same inputs its outputs differ by up to "),
        ("head dropped", "model/: pipeline('text-classification') answers otherwise: training gives row "),
        ("labels permuted", "model/: pipeline('text-classification') answers otherwise: training gives row "),
        (
            "mean and deviation changed",
            "model/: The saved processor makes other pixel_values than training saw, in 8 of",
        ),
        ("interpolation changed", "model/: The saved processor makes other pixel_values than training saw, in 8 of 8 "),
        ("padding side flipped", "model/: The saved processor makes other input_ids than training saw, in "),
        ("max_length changed", "model/: The saved processor makes other input_ids than training saw, in "),
        ("stale processor", "model/: The saved processor makes other input_ids than training saw, in "),
        ("adapter of another base", f"{ADAPTER}: The values of "),
        (
            "adapter of another base",
            "adapter/: Upon its base it answers otherwise than the model that trained: outputs differ by up to ",
        ),
        (
            "another base under the name",
            "adapter/: Upon its base it answers otherwise than the model that trained: outputs differ by up to ",
        ),
        ("kind of problem", "model/: pipeline('text-classification') answers otherwise: training gives row "),
    ],
)
def test_what_follows_from_a_fault_is_told_too(name, also, found):
    assert any(problem.startswith(also) for problem in found[name]), found[name]


def test_what_is_sound_is_not_blamed(found):
    """A fault of the adapter is none of the model, and the other way round; a changed processor leaves the weights."""
    for name in ("adapter of another base", "head of the adapter dropped", "another base under the name", "no adapter"):
        assert all(problem.startswith("adapter/") for problem in found[name])
    for name in ("head dropped", "pooler not saved", "the last bit of a bias", "padding side flipped"):
        assert not any(problem.startswith("adapter/") for problem in found[name])
    for name in ("mean and deviation changed", "max_length changed", "padding side flipped", "stale processor"):
        assert not any(WEIGHTS in problem or "For the same inputs" in problem for problem in found[name])
