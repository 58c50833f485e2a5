"""The harness that compares the ways to adapt measures a cell, goes on where it was, and is told what does not fit."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent.parent / "benchmarks" / "methods"


@pytest.fixture(scope="module")
def harness():
    """The modules of the harness, which are scripts beside each other."""
    sys.path.insert(0, str(HERE))
    import cells
    import columns
    import measure
    import methods

    yield {"cells": cells, "columns": columns, "measure": measure, "methods": methods}
    sys.path.remove(str(HERE))


@pytest.fixture(scope="module")
def column(harness, backbone, few):
    """Two columns of few rows for a tiny backbone; the second takes over the learning rates of the first."""

    def build(folder: Path, seed: int) -> None:
        (folder / "judged").mkdir(parents=True)
        for split in ("train", "validation", "test"):
            shutil.copy(few / f"{split}.csv", folder)
            shutil.copy(few / f"{split}.csv", folder / "judged")

    def make(name: str, rates_from: str = ""):
        return harness["columns"].Column(
            name, "tiny", str(backbone("bert")), {"type": "text-classification"}, {"text": "text", "label": "label"},
            2, build, lambda folder: float((folder / "config.json").exists()), rates_from, few=not rates_from,
        )  # fmt: skip

    return make


def test_a_cell_is_measured_once(harness, column, tmp_path, monkeypatch):
    cells, methods = harness["cells"], harness["methods"]
    monkeypatch.setitem(methods.RATES["head"], "tiny", (1e-3, 1e-2))
    way = methods.Way("probe", "linear-probe", "head")
    asked = cells.ordered([way], [column("one"), column("two", "one")], (0, 1))
    assert [cell.name for cell in asked] == ["probe / one / 0", "probe / one / 1", "probe / two / 0"]
    bench = harness["measure"].Bench(tmp_path / "work", cells.Results(tmp_path / "results.jsonl"))
    told: list[str] = []
    for _ in range(2):
        harness["measure"].run([asked[0], asked[2]], bench, told.append)
    first, second = bench.results.rows()
    assert len(told) == 2 and first["status"] == second["status"] == "measured", told
    assert [float(rate) for rate in first["tried"]] == [1e-3, 1e-2]
    assert list(second["tried"]) == [f"{first['rate']:g}"]
    assert 0 < first["trainable"] < first["parameters"] and first["steps"] == 2
    assert first["seconds"] > 0 and first["drift"] == {"before": 1.0, "after": 1.0}
    for split in ("test", "shift"):
        assert 0 <= first["scores"][split]["accuracy"]["low"] <= first["scores"][split]["accuracy"]["value"] <= 1
    assert not (tmp_path / "work" / "runs").exists()


def test_what_does_not_apply_is_told_and_the_others_go_on(harness, column, tmp_path):
    cells, methods = harness["cells"], harness["methods"]
    bench = harness["measure"].Bench(tmp_path / "work", cells.Results(tmp_path / "results.jsonl"))
    ways = [methods.Way("coop", "coop", "none"), methods.Way("teacher", {"method": "distill", "teacher": "nowhere"})]
    for cell in cells.ordered(ways, [column("one")], (0,)):
        line = bench.measure(cell)
        assert line["status"] == "does not apply", line["says"]
        assert line["says"]
        bench.results.append(line)
    told: list[str] = []
    harness["measure"].run([cells.Cell(ways[0], column("two", "one"), 0)], bench, told.append)
    assert not told and len(bench.results.rows()) == 2


def test_every_method_is_a_way_and_has_rates(harness):
    from hfadapt import discover
    from hfadapt.methods.base import Adaptation

    methods = harness["methods"]
    ways = methods.ways()
    assert len({way.name for way in ways}) == len(ways)
    told = {name for way in ways for name in methods._methods(way.adapt)}
    assert told >= set(discover.variants("hfadapt.methods", Adaptation))
    assert all(way.rates(backbone) for way in ways for backbone in methods.RATES["full"])


def test_workers_share_the_cells_and_interruptions_leave_a_balanced_table(harness):
    columns, cells, measure = harness["columns"], harness["cells"], harness["measure"]
    asked = cells.ordered(harness["methods"].ways(), columns.columns(Path("nowhere")))
    both = [list(measure.shared(asked, f"{i}/2")) for i in range(2)]
    for its in both:
        assert sorted(cell.key for cell in its) == sorted(cell.key for cell in asked)
        first = its[: len(asked) // 12]
        assert {cell.seed for cell in first} == {0} and all(cell.column.few for cell in first)
    assert len({cell.key for cell in asked}) == len(asked)
    begun = [{cell.key for cell in its[:10]} for its in both]
    assert not begun[0] & begun[1] and begun[0] | begun[1] == {cell.key for cell in asked[:20]}


def test_rows_are_drawn_by_the_seed(harness, shared, tmp_path):
    columns = {column.name: column for column in harness["columns"].columns(shared)}
    texts = {}
    for name, seed in (("uci-8", 0), ("uci-8", 1), ("banking-10", 0)):
        folder = tmp_path / name / str(seed)
        columns[name].build(folder, seed)
        for part in ("train", "validation", "test", "judged/validation", "judged/test", "unlabelled/train"):
            with (folder / f"{part}.csv").open(newline="", encoding="utf-8") as file:
                texts[name, seed, part] = [(row["text"], row["label"]) for row in csv.DictReader(file)]
    assert len(texts["uci-8", 0, "train"]) == 16 and len(texts["banking-10", 0, "train"]) == 200
    assert texts["uci-8", 0, "train"] != texts["uci-8", 1, "train"]
    assert texts["uci-8", 0, "judged/test"] == texts["uci-8", 1, "judged/test"]
    for name in ("uci-8", "banking-10"):
        seen = {part: set(texts[name, 0, part]) for part in ("train", "validation", "judged/test", "judged/validation")}
        assert not (seen["train"] | seen["validation"]) & (seen["judged/test"] | seen["judged/validation"])
    pairs = zip(texts["banking-10", 0, "judged/test"], texts["banking-10", 0, "judged/validation"], strict=True)
    assert all(sorted(good[0]) == sorted(bad[0]) and good[1] == bad[1] for good, bad in pairs)


def test_lines_are_json_of_one_line(harness, tmp_path):
    results = harness["cells"].Results(tmp_path / "folder" / "results.jsonl")
    results.append({"key": "a / 1", "says": "two\nlines", "rate": 1})
    results.append({"key": "a / 2", "says": "later", "rate": 2})
    assert results.rows() == [{"key": "a / 2", "says": "later", "rate": 2}]
    assert [json.loads(line)["rate"] for line in results.path.read_text().splitlines()] == [1, 2]


def test_the_report_tells_what_was_measured(harness, tmp_path):
    import drawing
    import report

    columns, ways = harness["columns"].columns(Path("nowhere")), harness["methods"].ways()
    rows = []
    for cell in harness["cells"].ordered(ways, columns):
        if cell.way.name in ("full", "lora", "zero-shot") and (cell.seed == 0 or cell.way.main):
            value = {"full": 0.5, "lora": 0.6, "zero-shot": 0.2}[cell.way.name] + cell.seed / 100
            accuracy = {"accuracy": {"value": value}}
            rows.append(
                {"key": cell.key, "way": cell.way.name, "column": cell.column.name, "seed": cell.seed, "rate": 1e-3}
                | {"scores": {"test": accuracy, "shift": accuracy}, "drift": {"before": 0.8, "after": 0.4}, "steps": 9}
                | {"status": "measured", "trainable": 10 * (cell.way.name != "zero-shot"), "cpu_seconds": 2.0}
                | {"memory_bytes": 1e8, "date": "2026-01-01", "commit": "abc", "versions": {}, "hardware": "a machine"}
            )
    rows.append({"key": "x", "way": "coop", "column": "sign-10", "seed": 0, "status": "does not apply", "says": "No."})
    text = report.readme(rows, columns)
    found = report.entries(rows, columns)
    assert "| lora | **0.610 ±0.025** |" in text and "| full | 0.510 ±0.025 |" in text
    assert "| lora | +0.100 | 9 | 0 | 0 |" in text and "on no column:** zero-shot." in text
    assert "full (by lora)" in text and "- coop on sign-10: No." in text
    report.draw(dict(list(found.items())[:2]), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"parameters.png", "time.png", "kept.png"}
    points = [drawing.Point(name, x, y, 0.0) for name, x, y in (("a", 1, 0.5), ("b", 2, 0.4), ("c", 3, 0.6))]
    assert [point.name for point in drawing.pareto(points, greater=False)] == ["a", "c"]
    assert [point.name for point in drawing.pareto(points, greater=True)] == ["c"]
