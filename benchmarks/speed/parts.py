"""Where the time of full fine-tuning goes: python benchmarks/speed/parts.py [--data DIR]; writes parts.json.

Every step but the first ones is timed in its parts; a few are looked into by torch's profiler.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DATA = HERE.parents[2] / "shared" / "data"
LOOKED_INTO = range(20, 24)
"""Steps under the profiler; they are not timed."""
KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::_scaled_dot_product"),
    "dropout": ("aten::bernoulli_", "aten::dropout", "aten::native_dropout"),
}
"""Operators by a part of their names."""


class Parts:
    """Seconds of each part of a step, and of each kind of operator in it."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.operators: dict[str, float] = defaultdict(float)
        self.step = 0

    def timed(self, name: str, run: Any) -> Any:
        """`run`, with its time noted."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            done = run(*args, **kwargs)
            if self.step > LOOKED_INTO.stop:
                self.seconds[name].append(time.perf_counter() - began)
            return done

        return wrapped

    def inside(self, run: Any) -> Any:
        """`run`, forward and backward, looked into at some steps."""
        from torch.profiler import ProfilerActivity, profile

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.step += 1
            if self.step not in LOOKED_INTO:
                return run(*args, **kwargs)
            with profile(activities=[ProfilerActivity.CPU]) as looked:
                done = run(*args, **kwargs)
            for row in looked.key_averages():
                kind = next((k for k, names in KINDS.items() if row.key.startswith(names)), "other operators")
                self.operators[kind] += row.self_cpu_time_total / 1e6
            return done

        return wrapped


def measure(data: Path) -> dict[str, Any]:
    """Shares of a step."""
    import questions
    import stock
    import torch

    import hfadapt
    from hfadapt.recipe import Recipe
    from hfadapt.training import trainer

    setup = next(its for its in questions.SETUPS if its.name == "full")
    parts, whole, last = Parts(), [], [0.0]
    stage: Any = trainer.StageTrainer
    stage.training_step = parts.timed("forward and backward", parts.inside(stage.training_step))
    torch.nn.utils.clip_grad_norm_ = parts.timed("clipping", torch.nn.utils.clip_grad_norm_)
    torch.optim.AdamW.step = parts.timed("optimizer", torch.optim.AdamW.step)

    def listen(event: Any) -> None:
        if event["event"] == "step":
            now = time.perf_counter()
            if parts.step > LOOKED_INTO.stop + 1:
                whole.append(now - last[0])
            last[0] = now

    with tempfile.TemporaryDirectory() as work:
        rows = stock.rows_of(setup, Path(work), data)
        recipe = Recipe(**stock.recipe(setup, stock.folder_of_model(setup.model, Path(work)), rows, 0))
        hfadapt.adapt(hfadapt.plan(recipe), Path(work) / "run", listener=listen)
    step = statistics.median(whole)
    found = {name: statistics.median(values) / step for name, values in parts.seconds.items()}
    found["reading, padding, callbacks"] = 1 - sum(found.values())
    operators = sum(parts.operators.values())
    return {
        "step_seconds": step,
        "parts": found,
        "operators of forward and backward": {name: its / operators for name, its in parts.operators.items()},
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    os.environ["HF_HUB_OFFLINE"] = "1"
    told = json.dumps(measure(parser.parse_args().data), indent=1)
    (HERE / "parts.json").write_text(told + "\n", encoding="utf-8")
    print(told)
