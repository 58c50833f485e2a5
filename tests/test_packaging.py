"""A wheel built from the tree works from an empty folder; recipes and built-in data travel in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The wheel, built without a network and unpacked by pip into a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT)], check=True)
    (wheel,) = folder.glob("hfadapt-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"hfadapt/recipes/sentiment_bert.yaml", "hfadapt/builtin/reviews/train.csv"} <= set(names)
    assert {f"hfadapt/builtin/{model}/model.safetensors" for model in ("vit-nano", "clip-nano")} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.split("/")[0] not in {"hfadapt"} and ".dist-info" not in name]
    subprocess.run([*pip, "install", "--no-deps", "--target", str(folder / "site"), str(wheel)], check=True)
    return folder / "site"


def hfadapt(installed: Path, folder: Path, *words: str) -> str:
    """Run the installed package from a folder where the checkout is not."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    code = (
        f"import hfadapt; assert hfadapt.__file__.startswith({str(installed)!r}); from hfadapt.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_travels_in_it_is_listed_copied_and_runs(installed, backbone, tmp_path):
    listed = json.loads(hfadapt(installed, tmp_path, "list", "--json"))
    assert {"sentiment_bert", "sst2_bert"} <= set(listed["recipes"])
    assert "builtin/reviews" in listed["data"]
    hfadapt(installed, tmp_path, "cp", "sentiment_bert", "my.yaml")
    assert (tmp_path / "my.yaml").read_text() == (ROOT / "recipes" / "sentiment_bert.yaml").read_text()
    hfadapt(installed, tmp_path, "run", "my.yaml", f"model={backbone('bert')}", "train.max_steps=2")
    assert (tmp_path / "runs" / "my" / "scores.json").exists()
    assert {p.name for p in tmp_path.iterdir()} == {"my.yaml", "runs"}
