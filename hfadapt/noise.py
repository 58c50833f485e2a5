"""Upstream's progress bars, load reports and repeated advice, silenced while hfadapt works."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR, getLogger
from typing import Any


@contextmanager
def quiet() -> Iterator[None]:
    """Errors of transformers, datasets and huggingface_hub still show; their chatter does not."""
    import datasets
    from huggingface_hub import utils
    from transformers.utils import logging

    hub: Any = utils
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    data_level, data_bars = datasets.logging.get_verbosity(), datasets.utils.are_progress_bars_disabled()
    hub_bars = hub.are_progress_bars_disabled()
    traced = getLogger("torch.fx._symbolic_trace")
    traced_level = traced.level
    # What it says when nested tensors are first used is for those who trace.
    traced.setLevel(ERROR)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    datasets.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    hub.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            # peft asks transformers under a name that transformers has since deprecated.
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
            # Of torch's nested tensors, whose answers are compared before they are relied on.
            warnings.filterwarnings("ignore", message="The PyTorch API of nested tensors is in prototype stage")
            yield
    finally:
        traced.setLevel(traced_level)
        logging.set_verbosity(level)
        datasets.logging.set_verbosity(data_level)
        if bars:
            logging.enable_progress_bar()
        if not data_bars:
            datasets.enable_progress_bars()
        if not hub_bars:
            hub.enable_progress_bars()
