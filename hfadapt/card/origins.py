"""What a run was made from, as others know it: the licence of the backbone, the data set on the Hub, its languages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfadapt.backbones._source import is_published
from hfadapt.card.markdown import last_part, one_line
from hfadapt.planning import Plan

_LISTED = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl
lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib
pddl lgpl-lr deepfloyd-if-license llama2 llama3 llama3.1 llama3.2 llama3.3 gemma unknown other
"""
LICENCES = frozenset(_LISTED.split())
"""The identifiers that the Hub takes: https://huggingface.co/docs/hub/repositories-licenses."""
_BUILTIN_LICENCE = "cc0-1.0"
"""Of all models that come with hfadapt, as their README.md files say."""
_FRONT = re.compile(r"\A\s*---\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*|code|multilingual")


@dataclass(frozen=True)
class Licence:
    """As the Hub's metadata write it."""

    identifier: str
    name: str | None = None
    """Of a licence without an identifier."""
    link: str | None = None


def licence(plan: Plan) -> Licence | None:
    """That of the backbone, where it says one; None where no weight of it is in the model."""
    if plan.recipe.adapt.scratch:
        return None
    if plan.source.name.startswith("builtin/"):
        return Licence(_BUILTIN_LICENCE)
    said = _of_backbone(plan)
    identifier = said.get("license")
    if isinstance(identifier, list) and len(identifier) == 1:
        identifier = identifier[0]
    if not isinstance(identifier, str) or not identifier.strip():
        return None
    name, link = (one_line(said[key]) if isinstance(said.get(key), str) else None for key in _NAMED)
    identifier = one_line(identifier).lower()
    if identifier not in LICENCES and not is_published(plan.source):
        return Licence("other", name or identifier, _linked(link, plan))
    return Licence(identifier, name, _linked(link, plan))


_NAMED = ("license_name", "license_link")


def _linked(link: str | None, plan: Plan) -> str | None:
    """A link that works from another repository; a file beside the backbone's README is only there."""
    if link is None or link.startswith(("https://", "http://")):
        return link
    return f"https://huggingface.co/{plan.source.name}/blob/main/{link}" if is_published(plan.source) else None


def base_model(plan: Plan) -> str | None:
    """The id on the Hub of the model whose weights training started from, if it is there."""
    return plan.source.name if is_published(plan.source) and not plan.recipe.adapt.scratch else None


def dataset(plan: Plan) -> str | None:
    """The id on the Hub of the data set, if the rows are from there."""
    path = plan.recipe.data.path
    if not isinstance(path, str) or path.startswith("builtin/"):
        return None
    # So `data.hub` shows the tables of a data set; those of files are paths.
    shown = f"{path}/{plan.recipe.data.name}" if plan.recipe.data.name else path
    return path if any(re.fullmatch(rf"{re.escape(shown)} \(.+\)", file) for file in plan.data.files) else None


def data_name(plan: Plan) -> str:
    """What the data are called: their id on the Hub, `builtin/…`, or the last part of their path."""
    path = plan.recipe.data.path
    if dataset(plan) or (isinstance(path, str) and path.startswith("builtin/")):
        return str(path)
    paths = [path] if isinstance(path, str) else path
    return ", ".join(dict.fromkeys(one_line(last_part(one)) for one in paths))


def languages(plan: Plan) -> list[str]:
    """ISO 639 codes of what the data are written in, where their own card says so."""
    if plan.recipe.task.modality == "image":
        return []
    if str(plan.recipe.data.path).startswith("builtin/"):
        return ["en"]
    said = _of_dataset(plan).get("language", [])
    listed = said if isinstance(said, list) else [said]
    return [code for code in listed if isinstance(code, str) and _LANGUAGE.fullmatch(code)]


def _of_backbone(plan: Plan) -> Mapping[str, Any]:
    """What the backbone's card says: beside its weights, above them where they are of a run, or in the Hub's cache."""
    if plan.source.path != plan.source.name or Path(plan.source.path).is_dir():
        folder = Path(plan.source.path)
        own = front_matter(folder / "README.md")
        return own or (front_matter(folder.parent / "README.md") if folder.name == "model" else {})
    return _cached(plan.source.name, "model", plan.recipe.model.revision)


def _of_dataset(plan: Plan) -> Mapping[str, Any]:
    name = dataset(plan)
    return _cached(name, "dataset", plan.recipe.data.revision) if name else {}


def _cached(name: str, kind: str, revision: str | None) -> Mapping[str, Any]:
    from huggingface_hub import hf_hub_download

    try:
        return front_matter(Path(hf_hub_download(name, "README.md", repo_type=kind, revision=revision)))
    except Exception:  # no README, or no connection: whatever it is, a finished run must not fail by it
        return {}


def front_matter(path: Path) -> Mapping[str, Any]:
    """The metadata in front of a card; empty where there is no file, or nothing that could be read."""
    import yaml

    try:
        found = _FRONT.match(path.read_text(encoding="utf-8-sig"))
        said = yaml.safe_load(found[1]) if found else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return said if isinstance(said, Mapping) else {}
