"""What the README shows is so: its recipe reads, its mistakes are told, its tables name what there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from conformance.promises import ONLY

from hfadapt import discover
from hfadapt.backbones.base import Family
from hfadapt.errors import RecipeError
from hfadapt.methods.base import Adaptation
from hfadapt.reading import build, parse, read
from hfadapt.tasks.base import Task

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_recipe_reads(tmp_path):
    (text,) = re.findall(r"```yaml\n(hfadapt: 1.*?)```", README, re.DOTALL)
    (tmp_path / "my.yaml").write_text(text, encoding="utf-8")
    recipe = read(tmp_path / "my.yaml", ["adapt=linear-probe", "train.seed=3"])
    assert recipe.adapt.name == "linear-probe" and recipe.train["learning_rate"] == 5e-4
    wrong = text.replace("text: review", "vaildation: 0.1, text: review").replace("learning_rate", "learning_rat")
    (tmp_path / "my.yaml").write_text(wrong, encoding="utf-8")
    with pytest.raises(RecipeError) as said:
        read(tmp_path / "my.yaml")
    shown = re.findall(r"^my\.yaml:\d+: (.*)$", README, re.MULTILINE)
    assert len(shown) == 2
    assert [str(problem).partition(": ")[2] for problem in said.value.problems] == shown


def test_the_methods_are_all_there():
    section = README[README.index("## Methods") : README.index("| task | kinds")]
    cells = re.findall(r"^\| (`[^|]+`) \|", section, re.MULTILINE)
    named = [name for cell in cells for name in re.findall(r"`([\w-]+)`", cell)]
    assert sorted(named) == sorted(discover.variants("hfadapt.methods", Adaptation))


def test_tasks_kinds_and_methods_go_together_as_the_table_says():
    section = README[README.index("## Methods") : README.index("## Several processes")]
    rows = re.findall(r"^\| `([\w-]+)` \| (`.+?) \| all but (.+?) \|$", section, re.MULTILINE)
    families = discover.facts("hfadapt.backbones", Family)
    reads = {"text": {"text"}, "image": {"image", "image-text"}, "image-text": {"image-text"}}
    tasks = discover.variants("hfadapt.tasks", Task)
    assert [name for name, *_ in rows] == ["text-classification", "image-classification", "image-text-contrastive"]
    assert sorted(tasks) == sorted(name for name, *_ in rows)
    for name, kinds, methods in rows:
        known = {
            kind.replace("_", "-") for kind, its in families.items() if its.modality in reads[tasks[name].modality]
        }
        assert set(re.findall(r"`([\w-]+)`", kinds)) == known
        refused = {method for method, meant in ONLY.items() if name not in meant}
        assert set(re.findall(r"`([\w-]+)`", methods)) == refused


def test_every_way_to_write_a_method_reads():
    section = README[README.index("## Methods") : README.index("## Several processes")]
    (text,) = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    (whole,) = re.findall(r"```yaml\n(hfadapt: 1.*?)```", README, re.DOTALL)
    lines = text.splitlines()
    assert len(lines) == 3
    for line in lines:
        recipe = re.sub(r"(?m)^(adapt|train): .*\n", "", whole) + line
        assert build(parse(recipe, "my.yaml"), "my", recipe).adapt.name in line + "stages"


def test_the_commands_are_those_of_the_program():
    from hfadapt.cli import verbs

    section = README[README.index("## Commands") : README.index("## Methods")]
    assert set(re.findall(r"`hfadapt (\w+)", section)) == set(verbs())


def test_the_server_answers(backbone, tmp_path):
    import transformers

    from hfadapt.noise import quiet

    (code,) = re.findall(r"```python\n(from flask.*?)```", README, re.DOTALL)
    with quiet():
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            backbone("bert"), id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1}
        )
        model.save_pretrained(tmp_path)
        transformers.AutoTokenizer.from_pretrained(backbone("bert")).save_pretrained(tmp_path)
        names: dict[str, Any] = {}
        exec(code.replace("runs/my/model", str(tmp_path)).replace("__name__", "'served'"), names)
        answer = names["app"].test_client().post("/", json={"texts": ["It works.", "It does not."]})
    assert [set(one) for one in answer.json] == [{"label", "score"}] * 2
    assert {one["label"] for one in answer.json} <= {"bad", "good"}
