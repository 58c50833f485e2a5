"""Losses that a refactoring must leave as they are, to four digits.

`python tests/test_golden.py FOLDER` writes them anew, working in the folder; only for a change that is meant to
change them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden" / "losses.json"
METHODS = {"full": {}, "linear-probe": {}, "partial": {"top": 1}, "lp-ft": {"probe": 0.5}, "lora": {"r": 2}}
ROWS = [(f"the {'wonderful' if i % 2 else 'dreadful'} number {i}", "good" if i % 2 else "bad") for i in range(40)]


def losses(folder: Path, method: str) -> list[float]:
    """The training losses of six steps, dropout on."""
    import hfadapt
    from hfadapt import tiny
    from hfadapt.noise import quiet
    from hfadapt.recipe import Recipe

    folder.mkdir(parents=True)
    (folder / "rows.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in ROWS))
    with quiet():
        tiny.checkpoint(folder / "model", "bert", [text for text, _ in ROWS])
    recipe = Recipe(
        task="text-classification",
        model=str(folder / "model"),
        data={"path": str(folder / "rows.csv")},
        adapt={"method": method, **METHODS[method]},
        train={"max_steps": 6, "logging_steps": 1, "learning_rate": 5e-3, "per_device_train_batch_size": 8},
    )
    run = hfadapt.adapt(hfadapt.plan(recipe), folder / "run")
    events = map(json.loads, (run.path / "log.jsonl").read_text().splitlines())
    return [round(event["loss"], 6) for event in events if event["event"] == "trained"]


@pytest.mark.parametrize("method", METHODS)
def test_losses_are_what_they_were(method, tmp_path):
    golden = json.loads(GOLDEN.read_text())[method]
    assert len(golden) == 6 and len(set(golden)) == 6
    assert losses(tmp_path / "golden", method) == pytest.approx(golden, abs=1e-4)


if __name__ == "__main__":
    found = {method: losses(Path(sys.argv[1]) / method, method) for method in METHODS}
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
