"""One whole run by the command line, trained, checked and pushed among canaries; made once for all tests."""

from __future__ import annotations

import shutil
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hub.client import point
from hub.server import TOKEN, Hub

CANARIES = {
    "token": TOKEN,
    "another token": "hf_" + "CanaryOfAnother" * 2,
    "cloud key": "AKIA" + "CANARY0123456789",
    "cloud secret": "canary/cloud/secret/0123456789",
    "tracker key": "canarytrackerkey0123456789",
    "user": "canaryuser",
    "host": "canary-host",
    "home": "",
    "dotenv": "canary-of-dotenv-0123",
}
"""What must not leave; the home is filled in when it is known."""

RECIPE = """\
task: text-classification
model: {home}/models/bert
data: {{path: {home}/rows/toy.csv, text: text, label: label}}
adapt: {{method: lora, r: 2}}
train: {{max_steps: 4, learning_rate: 1e-2}}
push: {{repo: whole, tag: v1}}
"""


@dataclass
class Whole:
    """What a run left behind."""

    hub: Hub
    path: Path
    home: Path
    status: int
    out: str
    err: str
    canaries: dict[str, str] = field(default_factory=dict)


_made: list[Whole] = []


def whole(folder: Path, backbone: Path, rows: Path) -> Whole:
    """Train, check and push in a home of canaries; folder: where that is."""
    if not _made:
        with pytest.MonkeyPatch.context() as patch:
            _made.append(_run(patch, folder / "home" / "canaryuser", backbone, rows))
    return _made[0]


def _run(patch: Any, home: Path, backbone: Path, rows: Path) -> Whole:
    import contextlib
    import io

    from hfadapt import cli

    shutil.copytree(backbone, home / "models" / "bert")
    (home / "rows").mkdir()
    shutil.copy(rows, home / "rows" / "toy.csv")
    work = home / "work"
    work.mkdir()
    canaries = CANARIES | {"home": str(home)}
    (work / ".env").write_text(f"SECRET={canaries['dotenv']}\nHF_TOKEN={canaries['another token']}\n")
    (work / "mine.yaml").write_text(RECIPE.format(home=home))
    hub = Hub().__enter__()
    point(patch, hub)
    variables = {"HOME": home, "USER": "canaryuser", "LOGNAME": "canaryuser", "HOSTNAME": "canary-host"}
    variables |= {"AWS_ACCESS_KEY_ID": canaries["cloud key"], "AWS_SECRET_ACCESS_KEY": canaries["cloud secret"]}
    variables |= {"WANDB_API_KEY": canaries["tracker key"], "HF_HUB_TOKEN": canaries["another token"]}
    for name, value in variables.items():
        patch.setenv(name, str(value))
    patch.setattr(socket, "gethostname", lambda: "canary-host")
    patch.chdir(work)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
        cli.main(["run", "mine.yaml"])
    status: Any = end.value.code
    return Whole(hub, work / "runs" / "mine", home, status, out.getvalue(), err.getvalue(), canaries)
