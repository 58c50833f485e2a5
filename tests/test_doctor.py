"""What `hfadapt doctor` says of sound and of broken installations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from hfadapt import cli, doctor

ROOT = Path(__file__).parent.parent
BROKEN = 'raise RuntimeError("operator torchvision::nms does not exist")\n'
"""What torchvision says beside a torch that it was not built for."""


def package(folder: Path, name: str, content: str, version: str = "0.30.0") -> None:
    """An installed package of one module."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(content)
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def ask(*words: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"} | ({"PYTHONPATH": str(path)} if path else {})
    command = [sys.executable, "-m", "hfadapt", "doctor", *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_sound_installation():
    done = ask("--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = {its["what"]: its for its in json.loads(done.stdout)}
    assert all(its["fine"] for its in found.values())
    assert next(iter(found)) == "python" and {"torch", "transformers", "models", "device"} <= set(found)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert len(found) >= len(project["dependencies"]) + 3, "each that hfadapt needs is looked at"
    assert "pytest" not in found and "imports" in found["models"]["says"]


@pytest.mark.slow
def test_a_torchvision_for_another_torch(tmp_path):
    package(tmp_path, "torchvision", BROKEN)
    done = ask(path=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    lines = {line.split()[1]: line for line in done.stdout.splitlines()}
    line = lines["torchvision"]
    assert line.startswith("BAD") and "operator torchvision::nms does not exist" in line
    assert "pip uninstall torchvision" in line and f"the torch that is here, {lines['torch'].split()[2]}:" in line
    assert lines["models"].startswith("BAD"), "it takes transformers down with it"
    assert lines["torch"].startswith("ok") and lines["device"].startswith("ok")


@pytest.fixture
def quick(monkeypatch):
    """Nothing is imported; hfadapt needs what the test says."""
    monkeypatch.setattr(doctor, "_imports", lambda what, code: doctor.Finding(what, True, "imports"))
    monkeypatch.setattr(doctor, "_device", lambda: doctor.Finding("device", True, "CPU only"))

    def needs(*lines: str) -> dict[str, doctor.Finding]:
        monkeypatch.setattr("importlib.metadata.requires", lambda name: list(lines))
        return {its.what: its for its in doctor.examine()}

    return needs


def test_what_is_missing_or_too_old(quick):
    found = quick("numpy>=2", "numpy2-that-is-not-there>=1.5,<2", 'no-such-plugin>=3; extra == "embedded"', "scipy<1")
    assert found["numpy"].fine
    missing, old = found["numpy2-that-is-not-there"], found["scipy"]
    assert not missing.fine and "pip install 'numpy2-that-is-not-there<2,>=1.5'" in missing.says
    assert not old.fine and "pip install 'scipy<1'" in old.says
    assert "no-such-plugin" not in found


def test_a_library_that_is_not_installed_is_not_looked_for(quick, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "timm" not in quick("numpy")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert list(quick("numpy")) == ["python", "numpy", "torchvision", "timm", "models", "device"]


def test_what_is_bad_is_in_the_json_and_the_exit_status(monkeypatch, capsys):
    said = [doctor.Finding("torch", True, "2.13.0"), doctor.Finding("timm", False, "The import fails.")]
    monkeypatch.setattr(doctor, "examine", lambda: iter(said))
    for words, status in ((["--json"], 1), ([], 1)):
        with pytest.raises(SystemExit) as end:
            cli.main(["doctor", *words])
        assert end.value.code == status
    out = capsys.readouterr().out
    listed, end = json.JSONDecoder().raw_decode(out)
    assert listed == [{"what": its.what, "fine": its.fine, "says": its.says} for its in said]
    assert [line.split()[:2] for line in out[end:].split("\n") if line] == [["ok", "torch"], ["BAD", "timm"]]
    said.pop()
    with pytest.raises(SystemExit) as end:
        cli.main(["doctor"])
    assert end.value.code == 0
