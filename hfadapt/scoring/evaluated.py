"""Metrics of the `evaluate` library that a recipe names: one of the Hub, or a module of one's own.

Loading a metric runs its code. `evaluate` is imported here and only when a metric is loaded, since
its import costs 7 s.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfadapt.errors import HfadaptError, Problem
from hfadapt.kind import Kind

TAKES = {"predictions", "references"}
"""The inputs that we can give; a metric that needs others is refused."""


class ExtraMetric:
    """A metric of the `evaluate` library, fed with batches; they wait on disk, not in memory."""

    def __init__(self, name: str, module: Any, folder: tempfile.TemporaryDirectory[str]):
        """Use `load`; `folder` holds the module's files and goes with this object."""
        self.name = name
        self._module = module
        self._folder = folder

    def add(self, predicted: NDArray[Any], targets: NDArray[Any]) -> None:
        """Add rows.

        Args:
            predicted: (rows,) label ids, (rows, labels) of 0 and 1, or (rows,) numbers.
            targets: the same.

        Raises:
            HfadaptError: the metric takes another type of input.
        """
        try:
            self._module.add_batch(predictions=predicted.tolist(), references=targets.tolist())
        except Exception as error:  # any type: the code is somebody else's
            raise HfadaptError(
                Problem(
                    f"The metric '{self.name}' does not take what this task predicts: {_sentence(error)}",
                    hint="Name a metric for this kind of task, or leave it out.",
                )
            ) from error

    def compute(self) -> dict[str, float]:
        """The metric's numbers by name over all rows, which it then forgets; only finite numbers.

        Raises:
            HfadaptError: the metric's own code failed.
        """
        try:
            found = self._module.compute()
        except Exception as error:  # any type: the code is somebody else's
            raise HfadaptError(
                Problem(
                    f"The metric '{self.name}' could not be computed: {_sentence(error)}",
                    hint="Where it needs options, wrap it in a metric module of your own that sets them.",
                )
            ) from error
        numbers = {key: _number(value) for key, value in dict(found or {}).items()}
        return {key: number for key, number in numbers.items() if number is not None}


def load(name: str, kind: Kind) -> ExtraMetric:
    """Load a metric.

    Args:
        name: a metric of the Hub (`accuracy`, `user/metric`), a metric module (`metrics/mine.py`), or
            a folder with one of the folder's name (`metrics/mine`).
        kind: what the predictions will be; for several labels the metric's `multilabel`
            configuration is taken where it has one.

    Raises:
        HfadaptError: there is no such metric, it can't be reached or loaded, or it needs inputs
            other than predictions and references.
    """
    try:
        import evaluate
    except ImportError as error:
        raise HfadaptError(
            f"The metric '{name}' needs the library evaluate, which can't be imported ({_sentence(error)})"
            " Install it with 'pip install evaluate', or leave the metric out."
        ) from error
    # a folder of its own: metrics of one name that are under way at once would share files
    folder = tempfile.TemporaryDirectory(prefix="hfadapt-metric-", ignore_cleanup_errors=True)
    with _quietly(evaluate), _refusing(name):
        module = _module(evaluate, name, kind, folder.name)
    inputs = set(_inputs(module.features))
    if inputs != TAKES:
        raise HfadaptError(
            f"The metric '{name}' takes {_listed(inputs)}, but can only be given {_listed(TAKES)}."
            " Use a built-in metric, or wrap it in a metric module of your own."
        )
    return ExtraMetric(Path(name).stem if _is_local(name) else name, module, folder)


def _module(evaluate: Any, name: str, kind: Kind, folder: str) -> Any:
    if kind == "labels":
        try:
            return evaluate.load(name, config_name="multilabel", cache_dir=folder)
        except (KeyError, ValueError):
            pass  # how a metric that knows its configurations refuses one
    return evaluate.load(name, cache_dir=folder)


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Turn what `evaluate.load` raises into a sentence."""
    try:
        yield
    except FileNotFoundError as error:
        raise HfadaptError(
            f"There is no metric '{name}': neither a metric module here nor, as far as can be reached,"
            " a metric on the Hub. Correct the name, give the path of a metric module (mine.py, or the folder mine"
            " that holds mine.py), or check the connection."
        ) from error
    except ConnectionError as error:
        raise HfadaptError(
            f"The metric '{name}' can't be fetched from the Hub: {_sentence(error)}"
            " Check the connection, or give the path of a metric module."
        ) from error
    except ImportError as error:
        raise HfadaptError(
            f"The metric '{name}' needs a package that can't be imported: {_sentence(error)}"
            " Install it; in a module of your own, write each import on a line of its own, as evaluate"
            " reads them line by line."
        ) from error
    except Exception as error:  # any type: the code is somebody else's
        raise HfadaptError(
            f"The metric '{name}' can't be loaded: {type(error).__name__}: {_sentence(error)}"
            " Mend the module, or leave the metric out."
        ) from error


@contextmanager
def _quietly(evaluate: Any) -> Iterator[None]:
    """No progress bars or remarks of evaluate's, and no network where the Hub's library has none."""
    from huggingface_hub.constants import HF_HUB_OFFLINE

    log, config = evaluate.utils.logging, evaluate.config
    before = log.get_verbosity(), log.is_progress_bar_enabled(), config.HF_EVALUATE_OFFLINE
    log.set_verbosity_error()
    log.disable_progress_bar()
    config.HF_EVALUATE_OFFLINE = config.HF_EVALUATE_OFFLINE or HF_HUB_OFFLINE
    try:
        yield
    finally:
        log.set_verbosity(before[0])
        if before[1]:
            log.enable_progress_bar()
        config.HF_EVALUATE_OFFLINE = before[2]


def _inputs(features: Any) -> list[str]:
    """The names of the inputs; a metric may list several sets of types for the same names."""
    return list(features[0] if isinstance(features, list) else features)


def _is_local(name: str) -> bool:
    return Path(name).exists()


def _listed(words: set[str]) -> str:
    return " and ".join(sorted(words))


def _sentence(error: BaseException) -> str:
    """The first lines of an error's text, ended by a full stop."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = text if len(text) <= 300 else f"{text[:300]}…"
    return text if text[-1] in ".!?…" else f"{text}."


def _number(value: Any) -> float | None:
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if not isinstance(value, Real) or isinstance(value, bool) or not np.isfinite(float(value)):
        return None
    return float(value)
