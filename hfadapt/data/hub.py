"""Datasets of the Hub, and one sentence about those that don't come."""

from __future__ import annotations

import os

from hfadapt.data.arrow import DatasetTable, StreamedTable
from hfadapt.data.table import Table
from hfadapt.errors import DataError, Problem, did_you_mean


def splits(
    path: str, name: str | None, revision: str | None, *, streaming: bool = False
) -> dict[str, tuple[Table, ...]]:
    """The splits of a dataset by the names that it gives them.

    streaming: whether rows are fetched as they are read, and not before.

    Raises:
        DataError: it can't be reached, is private or gated, needs code to run, or doesn't exist.
    """
    import datasets

    try:
        found = datasets.load_dataset(path, name, revision=revision, **({"streaming": True} if streaming else {}))
    except Exception as error:
        raise DataError(_explained(path, error)) from error
    shown = f"{path}/{name}" if name else path
    if streaming:
        return {str(split): (StreamedTable(rows, f"{shown} ({split})"),) for split, rows in found.items()}
    return {str(split): (DatasetTable(rows, f"{shown} ({split})"),) for split, rows in found.items()}


def _explained(path: str, error: Exception) -> Problem:
    from datasets.exceptions import DatasetNotFoundError

    # What `datasets` says of a file that doesn't parse is only in the cause.
    reason = str(error.__cause__ if "error occurred while generating" in str(error) else error)
    reason = " ".join(reason.split())[:300].rstrip(".")
    field = "data.path"
    if isinstance(error, ConnectionError):
        hint = "Is there a connection, and is HF_HUB_OFFLINE unset? Else name files that are here."
    elif "gated" in reason or "authenticat" in reason:
        hint = "Ask for access on its page and log in with `hf auth login`."
    elif isinstance(error, DatasetNotFoundError):
        hint = "Check the id (`owner/name`) and `data.revision`; a private dataset needs `hf auth login`."
    elif "scripts are no longer supported" in reason:
        hint = "Use a copy of the dataset as parquet (often under `data.revision: refs/convert/parquet`)."
    elif "onfig name is missing" in reason or "BuilderConfig" in reason:
        field, hint = "data.name", "Name one of its configurations."
    else:
        hint = "Name local files with a path that starts with './'."
    return Problem(field=field, says=f"The dataset '{path}' can't be loaded: {reason}.", hint=_near(path) or hint)


def _near(path: str) -> str:
    """What a path here was probably meant to be; empty where none is near."""
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        return ""
    return did_you_mean(path, (f"{folder}/{name}" for name in os.listdir(folder)), listing=False)
