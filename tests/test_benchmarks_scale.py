"""The benchmark of growing rows: what it makes, and what it says of what it measured."""

from __future__ import annotations

import importlib.util
from pathlib import Path

FILE = Path(__file__).parent.parent / "benchmarks" / "scale" / "measure.py"
# Under a name of its own: another benchmark's script is called the same.
spec = importlib.util.spec_from_file_location("benchmarks_scale_measure", FILE)
measure = importlib.util.module_from_spec(spec)
spec.loader.exec_module(measure)


def run(rows: int, milliseconds: float, held: int, way: str = "held") -> dict:
    seconds = dict.fromkeys(measure.PHASES, rows * milliseconds / 1000 / len(measure.PHASES))
    memory = {"memory_at_start_bytes": 100 << 20, "peak_memory_bytes": {"plan": held >> 1, "judge": held}}
    return {"way": way, "rows": rows, "seconds": seconds, "cpu_seconds": seconds, **memory}


def test_sentences_are_the_same_each_time_and_a_few_stand_twice():
    made = measure.sentences(5000)
    assert made == measure.sentences(6000)[:5000] and {label for _, label in made} == {"good", "bad", "neither"}
    assert 20 < len(made) - len(set(made)) < 90
    lengths = sorted(len(text.split()) for text, _ in made)
    assert lengths[0] >= 4 and lengths[-1] <= 60


def test_the_table_says_what_each_further_row_takes():
    about = {"date": "2026-01-01", "commit": "abc", "machine": "x, 2 cores, Linux", "versions": {"torch": "2"}}
    runs = [run(3000, 2.0, 300 << 20), run(1000, 2.0, 200 << 20), run(1000, 5.0, 150 << 20, "streamed")]
    page = measure.told({"about": about, "runs": runs})
    assert "| 1,000 | 2.0 | 2.00 | 0.40 | 0.40 | 0.40 | 0.40 | 0.40 | 200 | 100 |" in page
    assert "From 1,000 to 3,000 rows each further row takes 2.00 ms and 51.20 KiB at the peak." in page
    assert page.index("| 1,000 |") < page.index("| 3,000 |") < page.index("Rows streamed") < page.index("| 5.0 |")
