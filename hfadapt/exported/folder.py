"""The folder of an exported model: its graphs, configuration and processor, and what is known of it."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hfadapt.errors import HfadaptError, Problem, RunError

FORMATS = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "onnx-int8": ("onnx", "onnxscript", "onnxruntime"),
    "torch-export": (),
}
"""What a run can be exported to, and the packages that this takes besides hfadapt's own."""
MANIFEST = "export.json"
"""transformers' account of an exported model, by which its `ExportedModel` loads the folder; ours stands in it too."""
OURS = "hfadapt"
"""The key of the manifest under which ours stands."""
RECIPE = "recipe.yaml"


@dataclass(frozen=True)
class Exported:
    """An export's folder: `export.json`, graphs (`model.onnx`; of two towers `text.onnx`, `image.onnx`), `config.json`
    and the processor; `recipe.yaml` where it does not lie in the folder of its run."""

    path: Path

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What `export.json` holds.

        Raises:
            RunError: it can't be read, or hfadapt did not write it.
        """
        try:
            found = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
            found[OURS]["format"]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RunError(f"'{self.path / MANIFEST}' was not written by hfadapt, or is damaged.") from error
        return dict(found)

    @property
    def about(self) -> dict[str, Any]:
        """What hfadapt wrote down: `format`, `model` (a digest), `scale` and `bias` of two towers' cosines, `classes`,
        what was `checked`, `speed`, `score`."""
        return dict(self.manifest[OURS])

    @property
    def graphs(self) -> dict[str, Path]:
        """The file of each graph: `model`, or `text` and `image`."""
        return {name: self.path / one["file"] for name, one in self.manifest["components"].items()}

    @property
    def recipe_file(self) -> Path:
        """The recipe of the run that it was made of.

        Raises:
            RunError: it is neither here nor in the folder above.
        """
        found = next((place for place in (self.path, self.path.parent) if (place / RECIPE).exists()), None)
        if found is None:
            hint = f"Copy the run's {RECIPE} into it, or export with --out."
            raise RunError(Problem(f"The export in '{self.path}' has lost its recipe.", hint=hint))
        return found / RECIPE


def open_exported(path: str | Path) -> Exported | None:
    """The export in a folder; None where there is none.

    Raises:
        RunError: its manifest or recipe can't be read, or it needs packages that are not installed.
    """
    found = Exported(Path(path))
    if not (found.path / MANIFEST).is_file():
        return None
    need(found.about["format"], "running")
    assert found.recipe_file
    return found


def need(to: str, what: str = "making") -> None:
    """Make sure that the packages of a format are here.

    Raises:
        HfadaptError: one is not installed; what: the sentence's word for what it is needed for.
    """
    wanted = FORMATS[to] if what == "making" else [name for name in FORMATS[to] if name == "onnxruntime"]
    lacking = [name for name in wanted if importlib.util.find_spec(name) is None]
    if lacking:
        are = "is" if len(lacking) == 1 else "are"
        says = f"For {what} {to}, {' and '.join(lacking)} {are} missing."
        raise HfadaptError(Problem(says, hint="Install what it takes: pip install 'hfadapt[onnx]'."))
