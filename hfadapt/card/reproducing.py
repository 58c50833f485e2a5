"""What it takes to do a run again: the recipe without this machine's paths, versions, seed, and which data it was."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hfadapt.backbones._source import is_published
from hfadapt.card.markdown import discreet, last_part, table
from hfadapt.card.origins import dataset
from hfadapt.planning import Plan
from hfadapt.showing import versions

PERSONAL = {"report_to", "run_name", "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"}
"""Training arguments that name a person's places and change nothing of the result."""


def section(plan: Plan, processes: int = 1) -> list[str]:
    """The lines of the section; processes: how many trained together."""
    recipe, changed = shown_recipe(plan)
    command = "hfadapt run recipe.yaml" + (f" --processes {processes}" if processes > 1 else "")
    packages = {**versions(), "python": platform.python_version()}
    fence = "`" * max(3, _longest_run(recipe) + 1)
    covered = "the data, of those streamed the first rows" if plan.data.stream else "all data"
    return [
        "With this recipe as `recipe.yaml`"
        + (" (of paths it gives the last part; put yours in their place)" if changed else "")
        + ":",
        "",
        f"{fence}yaml",
        *recipe.splitlines(),
        fence,
        "",
        "```sh",
        command,
        "```",
        "",
        f"- Seed: {plan.settled['seed']}",
        *_revision(plan),
        f"- Versions: {', '.join(f'{name} {number}' for name, number in packages.items())}",
        f"- Fingerprint of {covered}, as `plan.yaml` has it (SHA-256): `{plan.data.fingerprint}`",
        "",
        *table(
            ["split", "rows", "fingerprint of its rows (XXH3, 64 bits)"],
            [[name, f"{len(rows):,}", f"`{fingerprint(rows)}`"] for name, rows in plan.data.splits.items()],
            right=[1],
        ),
    ]


def _revision(plan: Plan) -> list[str]:
    commit = getattr(plan.config, "_commit_hash", None) or plan.recipe.model.revision
    return [f"- Revision of the backbone: `{commit}`"] if commit and is_published(plan.source) else []


def fingerprint(rows: Any) -> str:
    """Sixteen hexadecimal digits that differ where any input or target does, or their order.

    rows: a `datasets.Dataset`; of a picture its bytes count, not where it lies.
    """
    import xxhash

    digest = xxhash.xxh3_64()
    roles = [name for name in rows.column_names if not name.startswith("_")]
    for batch in rows.select_columns(roles).iter(batch_size=1000):
        for values in zip(*(batch[role] for role in roles), strict=True):
            for value in values:
                content = _content(value)
                # Lengths first: without them "ab", "c" would equal "a", "bc".
                digest.update(f"{len(content)}/".encode())
                digest.update(content)
    return str(digest.hexdigest())


def _content(value: Any) -> bytes:
    if isinstance(value, Mapping):
        return value["bytes"] if value.get("bytes") is not None else Path(value["path"]).read_bytes()
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else repr(value).encode()


def shown_recipe(plan: Plan) -> tuple[str, bool]:
    """The recipe as YAML, comments left out and paths cut to their last parts; whether any was cut."""
    from io import StringIO

    from ruamel.yaml import YAML

    yaml, stream = YAML(typ="safe", pure=True), StringIO()
    yaml.default_flow_style, yaml.sort_base_mapping_type_on_output = False, False
    told = yaml.load(plan.recipe.dump())
    told.pop("push", None)
    for name in PERSONAL & set(told.get("train") or {}):
        del told["train"][name]
    published = {name for name in (dataset(plan), plan.source.name if is_published(plan.source) else None) if name}
    cut: list[str] = []
    told = {name: _without_paths(its, published, cut, globs=name == "data") for name, its in told.items()}
    yaml.dump(told, stream)
    return discreet(stream.getvalue()), bool(cut)


def _without_paths(value: Any, published: set[str], cut: list[str], *, globs: bool) -> Any:
    """cut: receives every path that was; globs: whether a star in a value is that of a pattern of paths."""
    if isinstance(value, dict):
        return {key: _without_paths(its, published, cut, globs=globs) for key, its in value.items()}
    if isinstance(value, list):
        return [_without_paths(its, published, cut, globs=globs) for its in value]
    if not isinstance(value, str) or value in published or not _is_path(value, globs):
        return value
    cut.append(value)
    return last_part(value)


def _is_path(value: str, globs: bool) -> bool:
    """Whether a value of a recipe names something on this machine."""
    if value.startswith("builtin/") or not any(mark in value for mark in "/\\"):
        return False
    if value.startswith(("/", "~", "./", "../", ".\\", "\\\\")) or value[1:3] in (":\\", ":/"):
        return True
    return (globs and any(mark in value for mark in "*?")) or os.path.exists(value)


def _longest_run(text: str) -> int:
    """Of backticks."""
    return max((len(found) for found in re.findall("`+", text)), default=0)
