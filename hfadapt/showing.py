"""A plan as YAML for a file and as lines for a person."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hfadapt import settings
from hfadapt.backbones._source import shown_name
from hfadapt.errors import count
from hfadapt.folder import SHEET, Run
from hfadapt.keeping import pictures, prefixes
from hfadapt.methods.base import Stage
from hfadapt.planning import Plan, label_counts

_VERSIONS = ("hfadapt", "torch", "transformers", "accelerate", "peft", "datasets")
_SHOWN_LABELS = 8
_SHOWN_PICTURES, _SHOWN_VARIANTS = 8, 7


def versions() -> dict[str, str]:
    """The versions of what decides a result."""
    return {name: version(name) for name in _VERSIONS}


def rate(value: float) -> str:
    """A learning rate as people write it: `2e-5`, `1.5e-4`."""
    mantissa, _, exponent = f"{value:.3e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def size(number: float) -> str:
    """`22.7M`, `1.2B`, `768`."""
    for unit, factor in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= factor:
            return f"{number / factor:.3g}{unit}"
    return f"{number:.0f}"


def span(seconds: float) -> str:
    """`40 s`, `3 min`, `2 h 10 min`."""
    if seconds < 99:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def settings_with_origin(plan: Plan) -> dict[str, tuple[Any, str]]:
    """Every training argument that is not upstream's default, with where it comes from."""
    known = settings.training_fields()
    found = {}
    for name, value in sorted(plan.settled.items()):
        upstream = known[name].default if name in known else None
        if name in plan.recipe.adapt.arguments:
            found[name] = (value, f"follows from the method '{plan.recipe.adapt.name}'")
        elif name in plan.recipe.train:
            found[name] = (value, plan.recipe.origin(f"train.{name}") or "recipe")
        elif value != upstream:
            reason = settings.DEFAULTS[name][1] if name in settings.DEFAULTS else _reason(name)
            found[name] = (value, f"hfadapt default: {reason}" if name in settings.DEFAULTS else reason)
    return found


def _reason(name: str) -> str:
    return f"hfadapt default: {why}" if (why := settings.REASONS.get(name)) else "follows from the recipe"


def moving(plan: Plan, stage: Stage) -> dict[str, tuple[int, int, tuple[float, ...]]]:
    """Of each part of the model: its parameters, those that move in the stage, their learning rates."""
    table: dict[str, list[Any]] = {}
    base = float(plan.settled.get("learning_rate", 5e-5) if stage.learning_rate is None else stage.learning_rate)
    for name, elements in plan.sizes.items():
        row = table.setdefault(plan.anatomy.part_of(name), [0, 0, set()])
        row[0] += elements
        if name in stage.speeds:
            row[1] += elements
            row[2].add(base * stage.speeds[name])
    order = [part.name for part in plan.anatomy.parts]
    return {n: (table[n][0], table[n][1], tuple(sorted(table[n][2]))) for n in order if n in table}


def plan_dict(plan: Plan) -> dict[str, Any]:
    """All that a plan settled, as plain values."""
    data = plan.data
    result: dict[str, Any] = {
        "task": plan.recipe.task.name,
        "model": {
            "name": shown_name(plan.source.name),
            "revision": getattr(plan.config, "_commit_hash", None) or plan.recipe.model.revision,
            "type": plan.config.model_type,
            "parameters": plan.parameters,
            "head": list(plan.anatomy.head),
        },
        "data": {
            "columns": {role: {"name": c.name, "origin": c.origin} for role, c in data.columns.items()},
            "splits": {
                name: {"rows": len(rows), "made": data.made[name], "labels": dict(label_counts(data, name))}
                for name, rows in data.splits.items()
            },
            "labels": list(data.labels.names),
            "fingerprint": data.fingerprint,
            "skipped": len(data.skipped),
        },
        "findings": [finding.says for finding in plan.findings],
        "method": plan.recipe.adapt.name,
        "steps": plan.steps,
        "stages": [
            {
                "name": stage.name,
                "share": stage.share,
                "trainable": plan.trainable(stage),
                "parts": {
                    part: {"parameters": total, "moving": moves, "learning_rates": list(rates)}
                    for part, (total, moves, rates) in moving(plan, stage).items()
                },
            }
            for stage in plan.stages
        ],
        "cache": [{"stage": its.stage, "below": its.below, "refused": its.refused} for its in prefixes(plan)],
        "pictures": found._asdict() if (found := pictures(plan)) else None,
        "padding": padding(plan) if plan.lengths else None,
        "settings": {n: {"value": v, "origin": o} for n, (v, o) in settings_with_origin(plan).items()},
        "versions": versions(),
    }
    if plan.pretraining:
        result["pretraining"] = plan.pretraining.as_dict()
    if plan.recipe.push:
        result["push"] = plan.recipe.push.model_dump()
    if plan.lengths:
        lengths = plan.lengths
        result["lengths"] = {k: getattr(lengths, k) for k in ("looked_at", "median", "longest", "limit", "cut")}
    if plan.estimate:
        e = plan.estimate
        result["estimate"] = {"seconds": round(e.seconds, 1), "memory_bytes": e.memory, "basis": e.basis}
    return result


def padding(plan: Plan) -> str:
    """What blocks do about padding, as far as the plan tells; whether it is exact is tried when training begins."""
    from hfadapt.training.unpadding import FULLEST, refusal

    use = plan.recipe.model.unpad
    if says := refusal(use, plan.settled):
        return f"computed like tokens: {says}"
    most = 1 - FULLEST[use]
    return (
        f"left out of the blocks, in batches of which more than {most:.0%} is padding"
        if most
        else "left out of the blocks"
    )


def plan_yaml(plan: Plan) -> str:
    """The text of `plan.yaml`."""
    import yaml

    return yaml.safe_dump(plan_dict(plan), sort_keys=False, allow_unicode=True, width=110)


def plan_lines(plan: Plan, *, full: bool = True) -> Iterator[str]:
    """A plan for a person, line by line; full: with the tree of the model and the settings."""
    yield from _data_lines(plan)
    yield f"model   {plan.source.name} ({plan.config.model_type}, {size(plan.parameters)} parameters)"
    trained = ", then ".join(f"{s.name} ({size(plan.trainable(s))} move)" for s in plan.stages) or "nothing trains"
    if plan.pretraining:
        yield f"first   pretraining on {plan.pretraining.told}; the cost leaves it out"
    yield f"adapt   {plan.recipe.adapt.name}: {trained}; {count(plan.steps, 'step')}"
    if push := plan.recipe.push:
        yield f"push    {push.told}"
    for finding in plan.findings:
        yield f"note    {finding.says}"
    for stage, below, _, why in prefixes(plan):
        if below:
            says = (
                f"off: {why}" if why else f"{plan.recipe.cache.use}: what lies below {below} is computed once for a row"
            )
            yield f"cache   stage '{stage}', {says}"
    if found := pictures(plan):
        small = f"opened at {found.side} pixels a side to be varied; " if found.side else ""
        yield f"images  {small}" + (
            f"none is kept decoded: {found.refused}" if found.refused else "each is decoded once where that is faster"
        )
    if full:
        yield from _tree_lines(plan)
        yield ""
        yield "settings that are not upstream's defaults"
        for name, (value, origin) in settings_with_origin(plan).items():
            yield f"  {name} = {rate(value) if isinstance(value, float) and value < 1e-2 else value}   ({origin})"
    if plan.estimate:
        e = plan.estimate
        yield ""
        yield f"cost    about {span(e.seconds)} and {e.memory / 2**30:.1f} GiB at the peak: {e.basis}"


def draw_augmented(plan: Plan, run: Run) -> Path:
    """Some training pictures as they are and as `task.augment` varies them, into the run folder.

    Returns the file, `augmented.png`.
    """
    import numpy as np

    from hfadapt.data.augmenting import sheet
    from hfadapt.tasks._pictures import opened

    train, path = plan.data.splits["train"], run.path / SHEET
    chosen = np.random.default_rng(plan.settled["seed"]).permutation(len(train))[:_SHOWN_PICTURES].tolist()
    rows = []
    for row in chosen:
        cells = [train[row]["image"]] * _SHOWN_VARIANTS
        draws = [np.random.default_rng([plan.settled["seed"], epoch, row, 0]) for epoch in range(_SHOWN_VARIANTS)]
        varied = plan.recipe.task.vary({"image": cells}, plan.processor, draws)["image"]
        rows.append([opened(cells[0]), *varied])
    sheet(path, rows, [f"training row {row}: as it is, and in {_SHOWN_VARIANTS} epochs" for row in chosen])
    return path


def _data_lines(plan: Plan) -> Iterator[str]:
    data, lengths = plan.data, plan.lengths
    named = ", ".join(
        f"{role} = {c.name}" + ("" if c.origin == "recipe" else " (guessed)") for role, c in data.columns.items()
    )
    yield f"task    {plan.recipe.task.name}, {_kind(plan)}"
    yield f"data    {plan.recipe.data.path}: {named}"
    for name, rows in data.splits.items():
        counts = label_counts(data, name)
        shown = ", ".join(f"{label} {n:,}" for label, n in counts.most_common(_SHOWN_LABELS))
        more = f", … ({len(counts)} labels)" if len(counts) > _SHOWN_LABELS else ""
        made = "" if data.made[name] == "given" else f"   [{data.made[name]}]"
        yield f"        {name:<10} {len(rows):>9,} rows   {shown}{more}{made}"
    if lengths:
        most = f"{lengths.longest:,} at most, cut to {lengths.limit}"
        yield f"        lengths: {lengths.median} tokens in the median, {most}"
        if plan.recipe.model.unpad != "auto":
            yield f"        padding: {padding(plan)}"
    if data.skipped:
        yield f"        {count(len(data.skipped), 'row')} skipped; see bad_rows.jsonl in the run folder"


def _kind(plan: Plan) -> str:
    labels = plan.data.labels
    words = {
        "label": f"one label a row out of {len(labels)}",
        "labels": f"any number of labels a row out of {len(labels)}",
        "number": "a number a row",
        "pairs": "pictures and texts",
    }
    return words[labels.kind]


def _tree_lines(plan: Plan) -> Iterator[str]:
    """The parts of the model, one line each; neighbouring blocks that fare alike share a line."""
    for stage in plan.stages:
        yield ""
        share = "" if stage.share == 1 else f", {stage.share:.0%} of the steps"
        yield f"stage '{stage.name}'{share}: {plan.trainable(stage):,} of {plan.parameters:,} parameters move"
        rows = list(moving(plan, stage).items())
        while rows:
            name, fate = rows.pop(0)
            last = name
            tower, is_block, _ = name.partition("blocks[")
            while is_block and rows and rows[0][1] == fate and rows[0][0].startswith(f"{tower}blocks["):
                last = rows.pop(0)[0]
            total, moves, rates = fate
            title = name if last == name else f"{name} … {last}, each"
            how = f"{size(moves)} at {', '.join(map(rate, rates))}" if moves else "frozen"
            yield f"  {title:<32} {size(total):>7}   {how}"
