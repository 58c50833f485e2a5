"""Cards of real runs: what the Hub reads in them, what a visitor reads, and what nobody may."""

from __future__ import annotations

import csv
import json
import random
import re
import sys

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.utils import validate_repo_id
from jsonschema import Draft202012Validator
from PIL import Image

import hfadapt
from hfadapt.card import PLACE
from hfadapt.recipe import Recipe

DRAWS = True
"""Its charts are drawn."""

USER = "alicia7"
ODD = ("go|od `x`", "<b>bad</b> *x* $$y$$", "![so](so) # so")
FULL = {"max_steps": 4, "learning_rate": 1e-3}
TOKEN = "hf_" + "abcdefghijkl" * 3
FRONT = {
    "type": "object",
    "additionalProperties": False,
    "required": ["library_name", "pipeline_tag", "tags", "model-index"],
    "properties": {
        "language": {"type": "array", "items": {"pattern": "^[a-z]{2,3}$"}},
        "license": {"type": "string"},
        "library_name": {"const": "transformers"},
        "pipeline_tag": {"enum": ["text-classification", "image-classification", "zero-shot-image-classification"]},
        "base_model": {"type": "string"},
        "base_model_relation": {"const": "finetune"},
        "tags": {"type": "array", "items": {"pattern": "^[a-z0-9-]+$"}},
        "metrics": {"type": "array", "items": {"pattern": "^[a-z0-9_]+$"}, "uniqueItems": True},
        "widget": {
            "type": "array",
            "maxItems": 3,
            "items": {"required": ["text"], "properties": {"text": {"maxLength": 120}}, "additionalProperties": False},
        },
        "model-index": {
            "type": "array",
            "maxItems": 1,
            "items": {
                "required": ["name", "results"],
                "properties": {
                    "results": {
                        "minItems": 1,
                        "items": {
                            "required": ["task", "dataset", "metrics"],
                            "properties": {
                                "task": {"required": ["type"]},
                                "dataset": {"required": ["type", "name"]},
                                "metrics": {
                                    "minItems": 1,
                                    "items": {
                                        "required": ["type", "value"],
                                        "properties": {"value": {"type": "number"}, "type": {"type": "string"}},
                                    },
                                },
                            },
                        },
                    }
                },
            },
        },
    },
}
"""Of https://github.com/huggingface/hub-docs/blob/main/modelcard.md, and of what these runs may say."""


def write_texts(folder):
    """400 texts in four lengths, of three labels with odd names, with tags and stars."""
    draw = random.Random(1)
    words = ["table", "chair", "window", "river", "stone", "bread", "paper", "cloud"]
    folder.mkdir(parents=True)
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "other", "label", "tags", "stars"])
        for i in range(400):
            sign = ("wonderful", "dreadful", "neither")[i % 3]
            text = " ".join([*draw.choices(words, k=draw.choice((2, 6, 11, 17))), sign, str(i)])
            tags = ("up", "long", "up|long")[i % 3]
            writer.writerow([text, draw.choice(words), ODD[i % 3], tags, f"{i % 3 + draw.random():.2f}"])
    return folder / "rows.csv"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home folder of somebody with a name, in which all that follows happens."""
    folder = tmp_path_factory.mktemp("home") / USER
    (folder / "work").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("HOME", folder), ("USER", USER), ("LOGNAME", USER), ("HF_TOKEN", TOKEN)):
            patch.setenv(name, str(value))
        patch.chdir(folder / "work")
        yield folder


@pytest.fixture(scope="module")
def made(backbone, pictures, home):
    """Kind → the plan of a run, and the run."""
    texts, tables = write_texts(home / "secret data"), [str(pictures / s / "captions.csv") for s in ("train", "test")]
    task, bert, clip = "text-classification", str(backbone("bert")), str(backbone("clip"))
    shares = {"path": str(texts), "validation": 0.1, "test": 0.25, "text": "text"}
    pairs = {"path": tables[0], "test": tables[1], "image": "file", "text": "text", "label": "label"}
    asked = {
        "label": (task, bert, {**shares, "label": "label"}, {"method": "lora", "r": 2}),
        "labels": (task, bert, {**shares, "text_pair": "other", "label": "tags", "label_separator": "|"}, "bitfit"),
        "number": ({"type": task, "problem_type": "regression"}, bert, {**shares, "label": "stars"}, "from-scratch"),
        "pictures": ("image-classification", str(backbone("vit")), {"path": str(pictures)}, "lp-ft"),
        "pairs": ("image-text-contrastive", clip, pairs, "full"),
    }
    found = {}
    for kind, (task, model, data, adapt) in asked.items():
        train = {**FULL, "run_name": f"of {USER}"}
        recipe = Recipe(task=task, model=model, data=data, adapt=adapt, train=train)
        plan = hfadapt.plan(recipe)
        found[kind] = plan, hfadapt.adapt(plan, home / "work" / kind)
    return found


@pytest.fixture(scope="module")
def cards(made):
    return {kind: (run.path / "README.md").read_text(encoding="utf-8") for kind, (_, run) in made.items()}


# What the Hub reads


def test_the_hubs_client_reads_every_card_and_writes_it_again(cards):
    assert len(cards) == 5
    for kind, text in cards.items():
        card = ModelCard(text)
        front = card.data.to_dict()
        assert front == yaml.safe_load(text.split("---\n")[1]), kind
        assert ModelCard(str(card)).data.to_dict() == front
        problems = [error.message for error in Draft202012Validator(FRONT).iter_errors(front)]
        assert not problems, (kind, problems)


def test_scores_are_in_the_index_with_their_intervals(made, cards):
    for kind, (_, run) in made.items():
        scores = {n: s for n, s in run.scores["scores"]["test"].items() if "[" not in n}
        results = {r.metric_name.partition(",")[0]: r for r in ModelCard(cards[kind]).data.eval_results}
        assert set(results) <= set(scores) and len(results) >= 3
        for name, result in results.items():
            score = scores[name]
            assert result.metric_value == pytest.approx(score["value"]) and result.dataset_split == "test"
            if score["low"] is not None:
                low, high = map(
                    float, re.search(r"interval (-?[\d.]+)(?:–| to )(-?[\d.]+)", result.metric_name).groups()
                )
                assert (low, high) == pytest.approx((score["low"], score["high"]), abs=0.06)
    assert len(ModelCard(cards["label"]).data.eval_results) == 6  # accuracy is not told again as micro F1


def test_examples_are_short_validation_texts_and_never_pictures(made, cards):
    for kind, (plan, _) in made.items():
        shown = [example["text"] for example in ModelCard(cards[kind]).data.to_dict().get("widget", [])]
        if kind in ("label", "number"):
            assert 1 <= len(shown) <= 3 and set(shown) <= set(plan.data.splits["validation"]["text"])
        else:
            assert shown == []


# What a visitor reads


def sections(text):
    parts = re.split(r"^## (.+)$", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_part_is_there_and_every_picture_it_shows(made, cards):
    wanted = ["Use", "Results", "Intended use and limits", "Data", "How it was adapted", "How to do it again"]
    for kind, (_, run) in made.items():
        assert [title for title in sections(cards[kind]) if title != "Where it does worst"] == wanted
        shown = re.findall(r"^!\[.*?\]\((.*?)\)$", cards[kind], flags=re.M)
        assert "training.png" in shown and all((run.path / name).exists() for name in shown)
        assert ("confusion.png" in shown) is (run.path / "confusion.png").exists()
        assert "mistakes.png" not in cards[kind]


def test_odd_labels_break_no_table(made, cards):
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table")
    from hfadapt.card.markdown import one_line

    body = cards["label"].split("---\n", 2)[2]
    rows, cells, found = [], [], set()
    for token in markdown.parse(body):
        assert token.type != "html_block" or token.content.startswith(("<details>", "</details>"))
        if token.type == "tr_open":
            cells = []
        elif token.type == "tr_close":
            rows.append(list(cells))
        elif token.type == "inline":
            cells.append("".join(child.content for child in token.children))
            assert not {child.type for child in token.children} & {"html_inline", "em_open", "strong_open"} or (
                "on test is" in token.content
            )
            found |= {child.attrs["src"] for child in token.children if child.type == "image"}
    assert found == {"training.png", "confusion.png"}
    for name in ODD:
        assert sum(one_line(name) in row for row in rows) >= 2, name
    test = made["label"][0].data.splits["test"]
    listed = next(row for row in rows if row[1:2] == [one_line(ODD[0])])
    assert listed[-1] == str(sum(made["label"][0].data.labels.names[i] == ODD[0] for i in test["label"]))


def test_the_worst_labels_and_lengths_are_told_with_counts(made, cards):
    plan, run = made["label"]
    worst = sections(cards["label"])["Where it does worst"]
    counts = [int(n) for n in re.findall(r"^\| [\d,]+(?:–[\d,]+)? \| (\d+) \|", worst, flags=re.M)]
    assert sum(counts) == len(plan.data.splits["test"]) == 100 and worst.count("← worst") == 1
    scores = run.scores["scores"]["test"]
    f1 = {name: scores[f"f1[{name}]"]["value"] for name in ODD}
    told = [float(value) for value in re.findall(r"\| \d+ \| ([\d.]+) \([\d.]+–[\d.]+\) \| [\d.]+ \(", worst)]
    assert told == [pytest.approx(value, abs=6e-4) for value in sorted(f1.values())]
    for kind in ("pictures", "pairs"):  # eight rows of test
        assert "Where it does worst" not in sections(cards[kind])
    assert "`mae`" in sections(cards["number"])["Where it does worst"]
    assert "`f1_micro`" in sections(cards["labels"])["Where it does worst"]


def test_a_card_tells_what_happened(cards):
    adapted = {kind: sections(text)["How it was adapted"] for kind, text in cards.items()}
    assert "`adapter/`" in adapted["label"] and not any("`adapter/`" in adapted[k] for k in cards if k != "label")
    assert "Hu et al. 2021" in adapted["label"]
    assert "| probe |" in adapted["pictures"] and "| tune |" in adapted["pictures"]
    assert "random ones" in adapted["number"] and "built like" in cards["number"]
    assert "frozen" in adapted["pictures"] and "frozen" not in adapted["pairs"]
    assert "10% of train" in sections(cards["label"])["Data"]
    assert "distinct pictures" in sections(cards["pairs"])["Data"]


RUN = """
import contextlib, io, json, sys
found = {}
for kind, (code, folder) in json.load(open(sys.argv[1])).items():
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        exec(code.replace(sys.argv[2], folder), {"__name__": "snippet"})
    found[kind] = told.getvalue()
assert "hfadapt" not in sys.modules
json.dump(found, sys.stdout)
"""


def test_the_code_of_every_card_runs_without_hfadapt(nursery, made, cards, tmp_path):
    Image.new("RGB", (50, 40), "red").save(tmp_path / "picture.png")
    given = {}
    for kind, (_, run) in made.items():
        code = re.search(r"```python\n(.*?)```", cards[kind], flags=re.S)[1]
        assert cards[kind].count(PLACE) == code.count(PLACE) == 1
        given[kind] = code, str(run.model)
    (tmp_path / "given.json").write_text(json.dumps(given), encoding="utf-8")
    command = [sys.executable, "-c", RUN, "given.json", PLACE]
    done = nursery.run(command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = {kind: eval(text) for kind, text in json.loads(done.stdout).items()}
    assert {row["label"] for row in told["label"]} <= set(ODD)
    assert {row["label"] for row in told["labels"]} == {"up", "long"}
    assert [row["label"] for row in told["number"]] == ["value"]
    assert {row["label"] for row in told["pictures"]} == {"round", "angular"}
    assert {row["label"] for row in told["pairs"]} == {"round", "angular"}


def test_the_recipe_in_the_card_is_the_run_s_own_but_for_places(made, cards):
    for kind, (plan, _) in made.items():
        told = yaml.safe_load(re.search(r"```yaml\n(.*?)```", cards[kind], flags=re.S)[1])
        own = plan.recipe.model_dump(exclude_unset=True)
        assert told["adapt"] == own["adapt"] and told["train"] == FULL
        assert told["data"].get("label") == own["data"].get("label")
        where = told["data"]["path"]
        assert "/" not in where and str(plan.recipe.data.path).endswith(where)
        assert Recipe(**{**told, "train": told["train"]}).adapt.name == plan.recipe.adapt.name


# What nobody may


def test_no_place_person_or_token_is_in_a_card(made, cards, home, tmp_path_factory):
    import socket

    for kind, text in cards.items():
        for secret in (USER, TOKEN, str(home), str(tmp_path_factory.getbasetemp()), "/tmp", "secret data/", ".venv"):
            assert secret not in text, (kind, secret)
        assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", text)
        assert not re.search(r"(?<![\w.:<])/(?!details|summary)\w+/", text), kind
        for link in re.findall(r"(?<!`)!?\[.*?\]\((.*?)\)", text.replace(f"`{ODD[2]}`", "")):
            assert link in ("training.png", "confusion.png") or link.startswith("https://huggingface.co/")
        base = ModelCard(text).data.base_model
        assert base is None or validate_repo_id(base) is None
