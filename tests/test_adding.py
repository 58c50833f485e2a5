"""Adding a task, a method, a family is adding one file: the examples of CONTRIBUTING.md, word for word."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = re.findall(
    r"`(hfadapt/\w+/\w+\.py)`:\n\n```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.S
)

CODE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import hfadapt
assert hfadapt.__file__.startswith(sys.argv[1]), hfadapt.__file__
from hfadapt import gallery, tiny
from hfadapt.noise import quiet
from hfadapt.recipe import Recipe, schema
with quiet():
    tiny.checkpoint(sys.argv[1] + "/tiny", "mpnet", ["some words", "other words"])
found = gallery.listing()
recipe = Recipe(
    task="headline-classification", model=sys.argv[1] + "/tiny", adapt="head-and-norms",
    data={"path": sys.argv[2], "text": "text", "label": "label"}, train={"max_steps": 2},
)
run = hfadapt.adapt(hfadapt.plan(recipe), sys.argv[1] + "/run")
text = json.dumps(schema())
print(json.dumps({
    "listed": [
        "headline-classification" in found["tasks"],
        "head-and-norms" in found["methods"],
        "mpnet" in found["families"],
    ],
    "schema": ["headline-classification" in text, "head-and-norms" in text],
    "scores": sorted(run.scores["scores"]),
}))
"""


def test_the_examples_are_there():
    assert [path.split("/")[1] for path, _ in EXAMPLES] == ["methods", "backbones", "tasks"]


@pytest.mark.slow
def test_one_file_each_is_enough(nursery, toy, tmp_path):
    shutil.copytree(ROOT / "hfadapt", tmp_path / "hfadapt", ignore=shutil.ignore_patterns("__pycache__"))
    for path, code in EXAMPLES:
        assert not (tmp_path / path).exists(), "an example must not be an existing file"
        (tmp_path / path).write_text(code, encoding="utf-8")
    done = nursery.run([sys.executable, "-c", CODE, str(tmp_path), str(toy)])
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {"listed": [True] * 3, "schema": [True] * 2, "scores": ["test", "validation"]}
