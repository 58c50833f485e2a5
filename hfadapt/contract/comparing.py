"""What of a run's files is not as its contract says, one sentence a finding."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hfadapt.data.labels import shown_names
from hfadapt.errors import Problem, count

Tensors = Mapping[str, np.ndarray]

_ALLOWED = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""How far an output may be off, as a share of the greatest (or of 1 where that is less), before it is a finding.

On the machine that trained nothing differs but merged weights; other machines add up in another order. The weights
themselves are compared bit by bit.
"""
_WEIGHTS, _CONFIG = "model/model.safetensors", "model/config.json"


class Comparison:
    """What a run's contract keeps, and what a fresh process found of the run."""

    def __init__(
        self,
        folder: Path,
        base: str,
        contract: Mapping[str, Any],
        kept: Tensors,
        found: Mapping[str, Any],
        its: Tensors,
    ):
        """base: what the recipe adapted; kept, its: the tensors of the contract and of what was found."""
        self.folder, self.base, self.contract = folder, base, contract
        self.kept, self.found, self.its = kept, found, its

    def problems(self) -> Iterator[Problem]:
        """All findings, causes before what follows from them."""
        auto, task = self.contract["auto_class"], self.contract["pipeline"]
        parts = {
            "processor": ("model/", "The processor does not load", self._processor),
            "model": ("model/", f"It does not load through {auto}", self._model),
            "pipeline": ("model/", f"pipeline('{task}') fails", self._pipeline),
            "adapter": ("adapter/", "It cannot be read", self._adapter),
            "joined": ("adapter/", "It does not load upon its base", self._joined),
        }
        told = set()
        for part, (where, fails, differs) in parts.items():
            its = self.found.get(part)
            if its is None:
                continue
            if (error := its.get("error")) is None:
                yield from differs()
            elif error not in told:  # What keeps the model from loading keeps the pipeline too.
                told.add(error)
                yield Problem(f"{fails}: {error}.", where=where)

    def differences(self) -> dict[str, float]:
        """The greatest difference of an output: of `model` and `adapter`, each from what it was saved of, and what
        `merging` changed."""
        pairs = {"model": (self.its, "model", "model"), "adapter": (self.its, "adapter", "trained")}
        pairs["merging"] = (self.kept, "model", "trained")
        found = {name: self._off(*pair) for name, pair in pairs.items()}
        return {name: off for name, off in found.items() if off is not None}

    def _off(self, tensors: Tensors, who: str, wanted: str) -> float | None:
        """None where there is nothing to compare."""
        names = [name for name in self.kept if name.split(".")[1:2] == [wanted]]
        theirs = {name: tensors.get(name.replace(f".{wanted}.", f".{who}.", 1)) for name in names}
        if any(its is None for its in theirs.values()):
            return None
        return max(_apart(self.kept[name], its) for name, its in theirs.items() if its is not None)

    def _allowed(self) -> float:
        outputs = [np.abs(its).max() for name, its in self.kept.items() if ".model." in name]
        return float(_ALLOWED.get(self.contract["dtype"], 1e-4) * max(1.0, *outputs))

    # The processor

    def _processor(self) -> Iterator[Problem]:
        for part, settings in self.contract["processor"].items():
            its = self.found["processor"].get(part, {})
            for name, was in settings.items():
                if name in its and its[name] != was:
                    yield Problem(_setting(name, its[name], was), where=self._file_of(part, name))
        yield from self._encodings()

    def _file_of(self, part: str, name: str) -> str:
        if part == "texts":
            return "model/tokenizer.json" if name == "vocabulary" else "model/tokenizer_config.json"
        files = ("model/preprocessor_config.json", "model/processor_config.json")
        return next((file for file in files if (self.folder / file).exists()), "model/")

    def _encodings(self) -> Iterator[Problem]:
        """What the saved processor makes of the rows, input by input."""
        begins = [f"{number}.inputs." for number in range(len(self.contract["batches"]))]
        wanted, made = (
            {name.removeprefix(begin) for begin in begins for name in tensors if name.startswith(begin)}
            for tensors in (self.kept, self.its)
        )
        if wanted != made:
            says = f"The saved processor makes {_listed(made)} of a row; the model that trained saw {_listed(wanted)}."
            yield Problem(says, where="model/")
        rows = len(self.contract["rows"])
        for name in sorted(wanted & made):
            apart = [_unlike(self.kept[begin + name], self.its[begin + name]) for begin in begins]
            if unlike := sum(number for number, _ in apart):
                off = max(off for _, off in apart)
                much = f", by up to {off:.2g}" if name == "pixel_values" and np.isfinite(off) else ""
                says = f"The saved processor makes other {name} than training saw, in {unlike} of {count(rows, 'row')}"
                yield Problem(f"{says}{much}.", where="model/")

    # The model

    def _model(self) -> Iterator[Problem]:
        its, was = self.found["model"], self.contract
        if its["labels"] != was["labels"] and was["labels"]:
            yield Problem(_labels(its["labels"], was["labels"]), where=_CONFIG)
        if was["problem_type"] and its["problem_type"] != was["problem_type"]:
            yield Problem(f"problem_type is {its['problem_type']}; training had {was['problem_type']}.", where=_CONFIG)
        if its["dtype"] != was["dtype"]:
            yield Problem(f"The weights are {its['dtype']}; training left {was['dtype']}.", where=_WEIGHTS)
        yield from self._tensors()
        if still := [name for name, moved in was["new"].items() if not moved]:
            says = f"Training never moved {_first(still)}, which began at random."
            yield Problem(says, where=_WEIGHTS)
        off, merged = self._off(self.its, "model", "model"), self._off(self.kept, "model", "trained")
        if off is not None and not off <= self._allowed():
            says = f"For the same inputs its outputs differ by up to {off:.2g} from those of the model that trained."
            yield Problem(says, where="model/")
        if merged is not None and not merged <= self._allowed():
            yield Problem(f"Merging the adapter changed the outputs by up to {merged:.2g}.", where="model/")

    def _tensors(self) -> Iterator[Problem]:
        """What loading reported, and tensors whose values are others."""
        its, was = self.found["model"], self.contract
        missing, lost = its["missing_keys"], its["mismatched_keys"]
        if missing:
            says = f"It lacks {_first(missing)}: loading lets {'it' if len(missing) == 1 else 'them'} begin at random."
            yield Problem(says, where=_WEIGHTS)
        if lost:
            yield Problem(f"The shape of {_first(lost)} does not fit config.json.", where=_WEIGHTS)
        if extra := its["unexpected_keys"]:
            yield Problem(f"The model has no place for {_first(extra)}.", where=_WEIGHTS)
        told = {*missing, *lost}
        other = [n for n, code in was["digests"].items() if n not in told and its["digests"].get(n) != code]
        if other and its["dtype"] == was["dtype"]:
            yield Problem(_changed(other), where=_WEIGHTS)

    # The pipeline

    def _pipeline(self) -> Iterator[Problem]:
        names, answers = self.contract["answers"], self.found["pipeline"]["answers"]
        allowed = 10 * _ALLOWED.get(self.contract["dtype"], 1e-4)
        worst, says = 0.0, ""
        for number, its in enumerate(answers or ()):
            for name, wanted in zip(names, self.kept["answers"][number].tolist(), strict=True):
                off = abs(its[name] - wanted) if name in its else float("inf")
                if not off <= max(worst, allowed * max(1.0, abs(wanted))):
                    worst = off
                    gives = f"gives '{name}' {its[name]:.3g}" if name in its else f"knows no '{name}'"
                    says = f"gives row {number + 1} '{name}' {wanted:.3g}, the pipeline {gives}"
        if says:
            yield Problem(
                f"pipeline('{self.contract['pipeline']}') answers otherwise: training {says}.", where="model/"
            )

    # The adapter

    def _adapter(self) -> Iterator[Problem]:
        was, weights = self.contract["adapter"]["digests"], "adapter/adapter_model.safetensors"
        its, named = self.found["adapter"]["digests"], self.found["adapter"]["base"]
        if named and named != self.base:
            yield Problem(f"Its base is '{named}'; the run adapted '{self.base}'.", where="adapter/adapter_config.json")
        if lacks := [name for name in was if name not in its]:
            yield Problem(f"It lacks {_first(lacks)}.", where=weights)
        if changed := [name for name, code in was.items() if its.get(name, code) != code]:
            yield Problem(_changed(changed), where=weights)
        saved = {name.removeprefix("base_model.model.") for name in was}
        if headless := [name for name in self.contract["new"] if name not in saved]:
            yield Problem(f"It lacks {_first(headless)}, which no base holds.", where=weights)

    def _joined(self) -> Iterator[Problem]:
        was, its = self.contract["adapter"]["base"], self.found["joined"]["digests"]
        if other := [name for name, code in was.items() if its.get(name, code) != code]:
            of = f"{len(other)} of {count(len(was), 'tensor')} differ, '{other[0]}' first"
            yield Problem(f"The base that the recipe names is not the one that was adapted: {of}.", where="adapter/")
        off = self._off(self.its, "adapter", "trained")
        if off is not None and not off <= self._allowed():
            says = f"Upon its base it answers otherwise than the model that trained: outputs differ by up to {off:.2g}."
            yield Problem(says, where="adapter/")


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    """The greatest difference; infinite where shapes differ or one is no number."""
    if one.shape != other.shape:
        return float("inf")
    off = np.abs(one.astype(np.float64) - other).max(initial=0.0)
    return float(off) if np.isfinite(off) else float("inf")


def _unlike(one: np.ndarray, other: np.ndarray) -> tuple[int, float]:
    """In how many rows two batches differ, and by how much."""
    if one.shape != other.shape:
        return len(one), float("inf")
    rows = (one != other).reshape(len(one), -1).any(-1)
    return int(rows.sum()), _apart(one, other)


def _setting(name: str, now: Any, was: Any) -> str:
    if name == "vocabulary":
        sizes = f"{now['size']:,} tokens, and training's {was['size']:,}"
        return f"The vocabulary is another one: it has {sizes}."
    return f"{name} is {json.dumps(now)}; training had {json.dumps(was)}."


def _labels(now: Sequence[str], was: Sequence[str]) -> str:
    wanted = shown_names(list(was))
    if now == [f"LABEL_{i}" for i in range(len(now))]:
        return f"id2label is missing: the model answers {shown_names(list(now))}, and training had {wanted}."
    order = ", in this order" if sorted(now) == sorted(was) else ""
    return f"The labels are {shown_names(list(now))}; training had {wanted}{order}."


def _changed(names: Sequence[str]) -> str:
    comma = "," if len(names) > 1 else ""
    return f"The values of {_first(names)}{comma} are not those that training left."


def _first(names: Sequence[str]) -> str:
    return f"'{names[0]}'" if len(names) == 1 else f"{len(names)} tensors, '{names[0]}' first"


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"
