"""What comes with hfadapt: recipes, tasks, methods, families, data."""

from __future__ import annotations

import re
from pathlib import Path

from hfadapt.errors import HfadaptError, did_you_mean


def recipes() -> dict[str, Path]:
    """The recipes of the gallery by name: of the checkout, or of the installed package."""
    here = Path(__file__).parent
    for folder in (here / "recipes", here.parent / "recipes"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    return {}


def listing() -> dict[str, dict[str, str]]:
    """Everything that comes with hfadapt, by kind: its name and a sentence."""
    from hfadapt import discover
    from hfadapt.backbones.base import Family
    from hfadapt.methods.base import Adaptation
    from hfadapt.tasks.base import Task

    tasks = discover.variants("hfadapt.tasks", Task)  # type: ignore[type-abstract]
    methods = discover.variants("hfadapt.methods", Adaptation)
    families = discover.modules("hfadapt.backbones")
    assert discover.facts("hfadapt.backbones", Family)
    builtin = Path(__file__).parent / "builtin"
    readmes = {readme.parent.name: readme for readme in sorted(builtin.glob("*/README.md"))}
    models = {name: readme for name, readme in readmes.items() if (readme.parent / "config.json").exists()}
    data = {name: _heading(readme) for name, readme in readmes.items() if name not in models}
    data |= {name: _first_sentence(module.__doc__) for name, module in discover.modules("hfadapt.builtin").items()}
    return {
        "recipes": {name: _first_comment(path) for name, path in recipes().items()},
        "tasks": {name: _first_sentence(kind.__doc__) for name, kind in tasks.items()},
        "methods": {name: _first_sentence(kind.__doc__) for name, kind in methods.items()},
        "families": {name: _first_sentence(module.__doc__) for name, module in families.items()},
        "models": {f"builtin/{name}": _heading(readme) for name, readme in models.items()},
        "data": {f"builtin/{name}": says for name, says in sorted(data.items())},
    }


def copy(name: str, to: str | None) -> Path:
    """Copy a recipe of the gallery; never over another file.

    Raises:
        HfadaptError: there is no such recipe, or the file exists.
    """
    known = recipes()
    name = name.removesuffix(".yaml")
    if name not in known:
        raise HfadaptError(f"There is no recipe '{name}'. {did_you_mean(name, known)}")
    target = Path(to or f"{name}.yaml")
    target = target / f"{name}.yaml" if target.is_dir() else target
    if target.exists():
        raise HfadaptError(f"'{target}' exists already; choose another name.")
    if not target.parent.is_dir():
        raise HfadaptError(f"There is no folder '{target.parent}'.")
    target.write_text(known[name].read_text(encoding="utf-8"), encoding="utf-8")
    return target


def _first_comment(path: Path) -> str:
    return path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")


def _first_sentence(text: str | None) -> str:
    """Without the addresses of papers, and what follows a semicolon."""
    paragraph = " ".join((text or "").strip().partition("\n\n")[0].split())
    plain = re.sub(r",? https?://[^\s;),]+| \(https?://[^)]+\)|(?<=\()https?://[^\s;),]+[,;] ", "", paragraph)
    # `et al. 2015` ends no sentence, and a semicolon between two papers none either.
    return re.split(r"(?<! al)\.(?:\s|$)|;(?![^(]*\))", plain)[0].rstrip(".") + "."


def _heading(readme: Path) -> str:
    return next(line for line in readme.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#"))
