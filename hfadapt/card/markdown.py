"""Words of others in Markdown: names that break no table, and nothing that belongs to one machine."""

from __future__ import annotations

import getpass
import re
import socket
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

_SECRET = re.compile(
    r"hf_[A-Za-z0-9]{16,}|gh[a-z]_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|(?:AKIA|ASIA)[A-Z0-9]{16}"
    r"|xox[a-z]-[A-Za-z0-9-]{10,}|glpat-[\w-]{16,}|AIza[\w-]{30,}"
)
"""Tokens of the Hub, GitHub, OpenAI and its like, AWS, Slack, GitLab and Google, by how they begin."""
_MARKS = re.compile(r"([*_{}\[\]~#])")
_ENTITIES = str.maketrans({mark: f"&#{ord(mark)};" for mark in "\\`|<>&$"})
"""As numbers, since a table ends its cells, and the Hub reads formulas, before anything else is understood."""
_FIRST = re.compile(r"^([-+=]|\d+(?=[.)]))")


def code(name: str) -> str:
    """A name as it is, on one line, in a code span that may stand in a table."""
    name = one_line(name)
    if any(mark in name for mark in "`|\\$"):
        return escaped(name)
    return f"`{name}`" if name else "(empty)"


def escaped(text: str) -> str:
    """A text on one line, every mark that Markdown or HTML could read made a plain character."""
    plain = _MARKS.sub(r"\\\1", one_line(text).translate(_ENTITIES).replace("&#", "\0")).replace("\0", "&#")
    return _FIRST.sub(lambda found: f"&#{ord(found[0][0])};{found[0][1:]}", plain)


def one_line(text: str) -> str:
    """A text without line breaks and characters that cannot be seen."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> list[str]:
    """The lines of a table; right: the columns of numbers. Cells are Markdown already."""
    marks = ["---:" if i in set(right) else "---" for i in range(len(header))]
    return [f"| {' | '.join(cells)} |" for cells in (header, marks, *rows)]


def folded(summary: str, lines: Sequence[str]) -> list[str]:
    """Lines behind a heading that opens on a click."""
    return ["<details>", f"<summary>{summary}</summary>", "", *lines, "", "</details>"]


def last_part(path: str) -> str:
    """The name of a file or folder, without where it lies; `data` where that names a person or a machine."""
    name = re.split(r"[/\\]", path.rstrip("/\\"))[-1]
    return "data" if name in {"", ".", "..", "~", *_whose()} else name


def discreet(text: str) -> str:
    """A text with the paths of this machine cut to their last parts, and nothing that looks like a token."""
    places = {str(Path.home()), str(Path.cwd()), tempfile.gettempdir()} - {"/", ""}
    for place in sorted(places, key=len, reverse=True):
        inside = re.compile(rf"(?<![\w.:/\\]){re.escape(place)}(?:[/\\][^\s\"'`|<>:,;)]*)?(?!\w)")
        text = inside.sub(lambda found: last_part(found[0]), text)
    return _SECRET.sub("…", text)


def _whose() -> set[str]:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        user = ""
    return {user, Path.home().name, socket.gethostname()}
