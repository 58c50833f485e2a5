"""One measurement in a process of its own: python benchmarks/speed/sides.py ORDER.json"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from questions import Setup


@dataclass(frozen=True)
class Order:
    """What a side is to do, and where."""

    setup: Setup
    side: str
    model: Path
    rows: Path
    out: Path
    """A new folder of this measurement alone."""
    seed: int
    script: str = ""
    """The user's copy of transformers' example."""

    @property
    def count(self) -> int:
        """The training rows of this side."""
        return self.setup.fewer.get(self.side, self.setup.rows)

    @property
    def steps(self) -> int:
        """The steps of an epoch on this side."""
        return -(-self.count // self.setup.batch)

    def as_json(self) -> str:
        """For another process."""
        from dataclasses import asdict

        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Order:
        """From another process."""
        values = json.loads(text)
        setup = values.pop("setup")
        setup["sides"] = tuple(setup["sides"])
        paths = {name: Path(values.pop(name)) for name in ("model", "rows", "out")}
        return cls(Setup(**setup), **values, **paths)


@dataclass
class Meter:
    """The clock and the memory of a training."""

    begun: float = 0.0
    ended: float = 0.0
    set_up: float = 0.0
    """Seconds of the training in which hfadapt tries things out; they do not grow with the rows."""
    held: int = 0
    peak: int = 0
    stamps: list[float] = field(default_factory=list)
    """The time at the end of each step."""

    def load(self) -> None:
        """The rows are ready, and the model is not loaded: what is held from now on is the training's."""
        gc.collect()
        if sys.platform == "linux":
            ctypes.CDLL("libc.so.6").malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")
        self.held = memory("VmRSS")

    def begin(self) -> None:
        """Training begins; only the first time counts."""
        self.begun = self.begun or time.perf_counter()

    def step(self) -> None:
        """A step is done."""
        self.stamps.append(time.perf_counter())

    def end(self) -> None:
        """Training is at its end, as far as is known."""
        self.ended, self.peak = time.perf_counter(), memory("VmHWM")

    def values(self, order: Order) -> dict[str, Any]:
        """Seconds of the training; rows a second after the first epoch; growth of memory at its peak, in bytes."""
        found = times(self.ended - self.begun, self.set_up) | {"peak": max(0, self.peak - self.held)}
        if len(self.stamps) > order.steps:
            epochs = len(self.stamps) / order.steps - 1
            later = self.stamps[-1] - self.stamps[order.steps - 1]
            found["rate"] = round(epochs * order.count / later, 3)
        return found | {"steps": len(self.stamps), "rows": order.count}


def times(seconds: float, set_up: float) -> dict[str, Any]:
    """What is told of a training's time."""
    return {"seconds": round(seconds, 3), "filled_seconds": round(seconds - set_up, 3), "set_up": round(set_up, 3)}


def memory(name: str) -> int:
    """VmRSS, what this process holds, or VmHWM, the most that it held, in bytes; 0 where the system is not Linux."""
    if sys.platform != "linux":
        return 0
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def side(order: Order) -> Callable[[Order], dict[str, Any]]:
    """Who carries it out."""
    import ours
    import peers

    known = {
        "hfadapt": ours.trained,
        "careful": peers.careful,
        "example": peers.script if order.script else peers.example,
        "products": peers.products,
        "embeddings": peers.embeddings,
    }
    return known[order.side]


def work(text: str) -> None:
    """Carry an order out, and leave what was measured in its folder."""
    order = Order.from_json(text)
    os.environ["HFADAPT_CACHE"] = str(order.out / "caches")
    try:
        found = side(order)(order)
    except Exception:  # told by the harness
        found = {"failed": traceback.format_exc()[-2000:]}
    (order.out / "found.json").write_text(json.dumps(found), encoding="utf-8")


def apart(text: str) -> None:
    """As a process that was forked: what it prints goes to a file."""
    out = Order.from_json(text).out
    with (out / "printed.txt").open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        work(text)
        sys.stdout.flush()


if __name__ == "__main__":
    work(Path(sys.argv[1]).read_text(encoding="utf-8"))
