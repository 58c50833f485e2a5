"""A run against its contract, in a fresh process that loads it with transformers alone."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from typing import Any

from hfadapt.errors import HfadaptError, Problem, RunError, count
from hfadapt.folder import Run, open_run

SCRIPT = Path(__file__).with_name("loaded_alone.py")
_OF_LAUNCHERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
_SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN")


@dataclass(frozen=True)
class Checked:
    """What a check of a run found."""

    run: Run
    rows: int
    """How many rows the models were asked."""
    problems: tuple[Problem, ...]
    """What is not as it was when the run trained; their places are files in the run folder."""
    differences: Mapping[str, float]
    """The greatest difference of an output: of `model` and `adapter` as they load, and what `merging` changed."""
    unchecked: str = ""
    """Why the adapter was not looked at, where it was not."""

    @property
    def sound(self) -> bool:
        """Whether what was trained is what loads."""
        return not self.problems

    @property
    def line(self) -> str:
        """What was found, on one line."""
        if not self.sound:
            return f"{count(len(self.problems), 'finding')}: what loads is not what was trained"
        off = max(self.differences.get("model", 0.0), self.differences.get("adapter", 0.0))
        what = "model/ and adapter/ load" if "adapter" in self.differences else "model/ loads"
        logits = f"logits within {off:.0e}" if off else "logits equal"
        line = f"{what} in plain transformers, {count(self.rows, 'row')}, {logits}"
        return f"{line}; {self.unchecked}" if self.unchecked else line

    def as_dict(self) -> dict[str, Any]:
        """All of it as values for JSON."""
        listed = [{"where": p.where, "says": p.says, "hint": p.hint} for p in self.problems]
        found: dict[str, Any] = {"sound": self.sound, "rows": self.rows, "differences": dict(self.differences)}
        return found | {"problems": listed} | ({"unchecked": self.unchecked} if self.unchecked else {})


class Fresh:
    """A process without hfadapt that loads runs; from its start on it imports, for seconds, what it needs for that."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="hfadapt-check-")
        self.folder = Path(self._folder.name)
        environment = {n: v for n, v in os.environ.items() if n not in (*_OF_LAUNCHERS, *_SECRETS)}
        environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        # -P: the modules beside the script must not stand in for those of the same name.
        words = [sys.executable, "-P", str(SCRIPT)]
        options: dict[str, Any] = {"stdin": PIPE, "stdout": DEVNULL, "stderr": PIPE, "text": True, "errors": "replace"}
        self._process = Popen(words, cwd=self.folder, env=environment, **options)

    def look(self, request: Mapping[str, Any]) -> str:
        """Let it look, once, and leave what it found in its folder; how it failed, where it did."""
        stderr = self._process.communicate(json.dumps({**request, "out": str(self.folder)}))[1]
        last = next(iter(stderr.strip().splitlines()[-1:]), "it says nothing")
        return f"The process that was to load it ended with status {self._process.returncode}: {last.rstrip('.')}."

    def __enter__(self) -> Fresh:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._process.kill()
        self._folder.cleanup()


def check(run: Run | str | Path, fresh: Fresh | None = None) -> Checked:
    """Load a run's model in a fresh process without hfadapt, and compare it with what training saw.

    fresh: the process, where one was started before.

    Raises:
        RunError: there is no run, or it has no contract that could be read.
    """
    return check_all([run], fresh)[0]


def check_all(runs: Sequence[Run | str | Path], fresh: Fresh | None = None) -> list[Checked]:
    """The same of several runs, in one fresh process.

    Raises:
        RunError: one of them is no run, or has no contract that could be read.
    """
    opened = [_Asked(run if isinstance(run, Run) else open_run(run)) for run in runs]
    requests = {str(number): its.request for number, its in enumerate(opened) if its.request}
    if not requests:
        return [its.checked(None, "") for its in opened]
    with fresh or Fresh() as looking:
        failed = looking.look({"runs": requests})
        return [its.checked(looking.folder / f"{number}.json", failed) for number, its in enumerate(opened)]


class _Asked:
    """A run, its contract, and what the fresh process is to look at."""

    def __init__(self, run: Run):
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        self.run, self.recipe, self.unchecked, self.absent = run, run.recipe, "", list[Problem]()
        try:
            self.contract = json.loads((run.path / "contract.json").read_text(encoding="utf-8"))
            self.kept = load_file(run.path / "contract.safetensors")
        except FileNotFoundError:
            older = "An older hfadapt made it: run its recipe again."
            hint = older if run.done else f"Go on with it: hfadapt run --resume {run.path}."
            raise RunError(Problem(f"The run {run.path} has no contract to check it by.", hint=hint)) from None
        except (OSError, ValueError, SafetensorError):
            raise RunError(
                f"The contract of the run {run.path} is damaged: contract.json, contract.safetensors."
            ) from None
        self.request = self._request()

    def _request(self) -> dict[str, Any] | None:
        """None where there is no model to look at."""
        run, model = self.run, self.recipe.model
        if not (run.model / "config.json").exists():
            self.absent.append(Problem("There is no model: config.json is missing.", where="model/"))
            return None
        asked: dict[str, Any] = {"folder": str(run.path.absolute())}
        asked["options"] = {"trust_remote_code": model.trust_remote_code}
        if not self.contract["adapter"]:
            return asked
        if not (run.path / "adapter" / "adapter_config.json").exists():
            self.absent.append(Problem("There is no adapter: adapter_config.json is missing.", where="adapter/"))
            return asked
        return asked | self._base(model)

    def _base(self, model: Any) -> dict[str, Any]:
        from hfadapt.backbones._source import locate

        try:
            source = locate(model.name, model.revision, model.trust_remote_code)
        except HfadaptError:
            source = None
        if source is None or not source.local:
            self.unchecked = f"adapter/ not checked, for its base '{model.name}' is not on this machine"
            return {}
        path = Path(source.path)
        where = str(path.absolute()) if path.is_dir() else source.path
        return {"base": {"path": where, "options": dict(source.options)}}

    def checked(self, told: Path | None, failed: str) -> Checked:
        """What the fresh process told, against the contract; failed: how it ended where it told nothing."""
        from safetensors.numpy import load_file

        from hfadapt.backbones._source import shown_name
        from hfadapt.contract.comparing import Comparison

        base = shown_name(self.recipe.model.name)
        if told and told.exists():
            found, its = json.loads(told.read_text(encoding="utf-8")), load_file(told.with_suffix(".safetensors"))
            compared = Comparison(self.run.path, base, self.contract, self.kept, found, its)
            problems, differences = [*compared.problems(), *self.absent], compared.differences()
        else:
            problems, differences = self.absent or [Problem(failed, where="model/")], {}
        return Checked(self.run, len(self.contract["rows"]), tuple(problems), differences, self.unchecked)
