"""The events of a run as a person reads them: a moving bar on a terminal, plain lines in a log."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any, TextIO

from hfadapt.errors import count

_SHOWN = (
    *("loss", "accuracy", "f1_macro", "map", "pearson", "rmse"),
    *("recall@1", "recall@10", "zero_shot_accuracy", "base_accuracy"),
)
"""What is told of an evaluation along the way."""
_LINES = 10
"""How many lines of progress a whole training leaves in a log."""


class Console:
    """A listener for `adapt`: writes how a run goes to a stream, with a bar where that is a terminal.

    `hfadapt.adapt(plan, listener=hfadapt.Console(sys.stdout))`
    """

    def __init__(self, stream: TextIO):
        self.stream = stream
        # A cell of a notebook runs commands on a terminal of which no carriage return is shown.
        self.moves = stream.isatty() and "JPY_PARENT_PID" not in os.environ
        self.began: tuple[float, int] | None = None
        self.told = 0
        self.loss = ""

    def __call__(self, event: Mapping[str, Any]) -> None:
        if method := getattr(self, "on_" + str(event["event"]).replace(" ", "_"), None):
            method(event)

    def line(self, text: str = "") -> None:
        """A line of its own, clear of the bar."""
        self.stream.write(f"\r\033[K{text}\n" if self.moves else f"{text}\n")
        self.stream.flush()

    def on_begin(self, event: Mapping[str, Any]) -> None:
        """The run folder."""
        self.line(f"{'going on in' if event['resumed'] else 'run folder'}  {event['run']}")

    def on_stage(self, event: Mapping[str, Any]) -> None:
        """A stage begins."""
        which = f" ({event['number']} of {event['of']})" if event["of"] > 1 else ""
        rates = event["learning_rates"]
        span = " to ".join(f"{rate:.2g}" for rate in dict.fromkeys((rates[0], rates[-1])))
        moves = f"{event['trainable']:,} parameters at {span}"
        self.line(f"training    stage '{event['stage']}'{which}: {count(event['steps'], 'step')}, {moves}")

    def on_cache(self, event: Mapping[str, Any]) -> None:
        """Whether the stage computes what lies below once."""
        if event["serves"]:
            self.line(f"            computed once and kept: {event['says']}")

    def on_unpad(self, event: Mapping[str, Any]) -> None:
        """Whether blocks compute tokens only."""
        if event["serves"]:
            self.line(f"            {event['says']}")

    def on_painting(self, event: Mapping[str, Any]) -> None:
        """Where augmentation is done."""
        if event["serves"]:
            self.line(f"            pictures are augmented on the device: {event['says']}")

    def on_pictures(self, event: Mapping[str, Any]) -> None:
        """Whether the pictures of a split are decoded once."""
        if event["keeps"]:
            self.line(f"            pictures of {event['split']} decoded once and kept: {event['says']}")

    def on_trained(self, event: Mapping[str, Any]) -> None:
        """The loss, for the next line or bar."""
        self.loss = f"loss {float(event['loss']):.4f}"

    def on_step(self, event: Mapping[str, Any]) -> None:
        """Progress and the time left, once there is a rate to go by."""
        step, steps, now = event["step"], event["steps"], time.monotonic()
        if self.began is None or step <= self.began[1]:  # Pretraining counts its own steps.
            self.began, self.told = (now, step), 0
        start, first = self.began
        left = f"{clock((now - start) / (step - first) * (steps - step))} left" if step > first else ""
        text = f"  {step / steps:4.0%}  step {step:,}/{steps:,}  {self.loss}  {left}".rstrip()
        if self.moves:
            self.stream.write(f"\r\033[K{text}")
            self.stream.flush()
        elif step * _LINES // steps > self.told:
            self.told = step * _LINES // steps
            self.line(text)

    def on_evaluated(self, event: Mapping[str, Any]) -> None:
        """The scores along the way, the loss first."""
        scores = {k: v for k, v in event["scores"].items() if isinstance(v, float) and "[" not in k}
        shown = [name for name in _SHOWN if name in scores]
        self.line(f"  validation at step {event['step']:,}: " + ", ".join(f"{k} {scores[k]:.4f}" for k in shown))


def clock(seconds: float) -> str:
    """`0:09`, `12:31`, `3:02:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
