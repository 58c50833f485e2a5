"""The benchmark of augmenting: both ways make the same, and the page says what was measured."""

from __future__ import annotations

import importlib.util
from pathlib import Path

FILE = Path(__file__).parent.parent / "benchmarks" / "augmenting" / "measure.py"
# Under a name of its own: another benchmark's script is called the same.
spec = importlib.util.spec_from_file_location("benchmarks_augmenting_measure", FILE)
measure = importlib.util.module_from_spec(spec)
spec.loader.exec_module(measure)


def test_both_ways_take_turns_and_make_the_same():
    found = measure.compared("trivial_augment", 28, 4, rounds=1)
    assert found["ratio"] > 0 and found["one_by_one_ms"] > 0


def test_the_page_has_a_line_for_each_side_and_batch():
    row = {"side": 28, "batch": 16, "one_by_one_ms": 0.8, "ratio": 0.501}
    rows = [
        {**row, "threads": threads, "side": side, "option": option}
        for threads in (1, 2)
        for side in (224, 28)
        for option in measure.OPTIONS
    ]
    about = {"date": "2026-01-01", "machine": "x, 2 cores, Linux", "versions": {"torch": "2"}, "rounds": 7}
    page = measure.told({"about": about, "rows": rows})
    line = "| 28 | 16 | 0.50 of 0.80 | 0.50 of 0.80 | 0.50 of 0.80 | 0.50 of 0.80 |"
    assert page.count(line) == 2 and page.count(line.replace("| 28", "| 224")) == 2
    assert page.index("## One thread") < page.index(line) < page.index("| 224") < page.index("## 2 threads")
    assert "in 7 rounds" in page and max(map(len, page.splitlines())) <= 120
