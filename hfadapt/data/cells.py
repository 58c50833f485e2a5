"""What a cell of a picture column holds, in the one form that `datasets` knows: bytes, or the path of a file."""

from __future__ import annotations

import os
from typing import Any

import pyarrow as pa

from hfadapt.data.answers import Refused, is_missing
from hfadapt.data.table import Table, type_name

CELL = pa.struct({"bytes": pa.binary(), "path": pa.string()})
"""How Arrow holds pictures; one of the two is there."""


def cell(role: str, value: Any, table: Table) -> dict[str, Any] | Refused:
    """A raw value as `{"bytes": …, "path": …}`, whose path opens from the working directory; or why it is neither.

    A text is a path from the table's own folder. No file is opened.
    """
    content, path = value, None
    if isinstance(value, dict):
        content, path = value.get("bytes"), value.get("path")
        content = path if content is None else content
    if is_missing(content):
        return Refused(f"The {role} is missing.")
    if isinstance(content, str):
        found = _located(content, table)
        return found if isinstance(found, Refused) else {"bytes": None, "path": found}
    if isinstance(content, bytes):
        return {"bytes": content, "path": path if isinstance(path, str) and _is_utf8(path) else None}
    return Refused(f"The {role} is {type_name(value)}; expected the path of a picture, or its bytes.")


def _located(given: str, table: Table) -> str | Refused:
    if not _is_utf8(given):
        return Refused("The name of the picture is not UTF-8: rename it.")
    if "://" in given:
        return Refused(f"'{given}' is an address; pictures are not downloaded.")
    folder = table.folder or ""
    path = os.path.normpath(os.path.join(folder, given))
    root = os.path.abspath(folder)
    if table.confined and os.path.commonpath([root, os.path.abspath(path)]) != root:
        return Refused(f"'{given}' leads out of the folder '{folder}'.")
    if os.path.isfile(path):
        return path
    return Refused(f"'{path}' is a folder." if os.path.isdir(path) else f"There is no picture '{path}'.")


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
