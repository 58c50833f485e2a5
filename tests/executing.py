"""Notebooks executed from top to bottom, and what must not be in them.

As a script it executes those of notebooks/ whole, or those that are named, and writes their outputs into them.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nursery import PYTHON, Nursery

FOLDER = Path(__file__).parent.parent / "notebooks"
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
LANGUAGE = {"name": "python", "pygments_lexer": "ipython3"}
LEFT_OUT = ("HF_TOKEN", "HF_ENDPOINT", "PYTEST_CURRENT_TEST")
"""Variables that no kernel is told: with the last, one would not show what is written to standard error itself."""
INLINE = "module://matplotlib_inline.backend_inline"
"""Where a kernel draws, as ipykernel tells it where matplotlib has not been imported."""
CELL_TIMEOUT = 600
"""Seconds that a cell may take."""
_TOPS = ("home", "root", "Users", "tmp", "var/folders")
_PLACES = (*(f"/{top}/" for top in _TOPS), str(FOLDER.parent), f"{Path.home()}/", sys.prefix)
_FAILED = ("Traceback (most recent call last)", "command not found")
"""What a command after `!` leaves behind where it failed, which stops no notebook."""


def read(path: Path) -> Any:
    """A notebook as it lies there."""
    return nbformat.read(path, as_version=4)


def parameters(notebook: Any) -> Any:
    """The cell that holds the knobs."""
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    return cell


def small(notebook: Any) -> Any:
    """The same notebook with the smaller knobs that its cell of parameters names."""
    cell = parameters(notebook)
    cell.source += "".join(f"\n{name} = {value!r}" for name, value in cell.metadata["small"].items())
    return notebook


def execute(notebook: Any, scratch: Path, nursery: Nursery | None = None, **environment: str) -> Any:
    """Run every cell in a fresh kernel that starts in notebooks/, without a token and with caches of its own.

    scratch: an empty folder for all that it leaves; nursery: forks the kernel and what it starts of Python, where
    they are not to import for seconds what it has; environment: what the kernel is told besides.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    import matplotlib.font_manager  # noqa: F401  # Looks for fonts, once on a machine, which a kernel would warn of.
    from jupyter_client import AsyncKernelManager
    from nbclient import NotebookClient

    first = nursery.bin if nursery else Path(sys.executable).parent
    told = {n: v for n, v in os.environ.items() if n not in LEFT_OUT and not n.lower().endswith("_proxy")}
    told |= {"TMPDIR": str(scratch), "HF_HOME": str(scratch / "hub"), "IPYTHONDIR": str(scratch / "ipython")}
    told |= {"HF_HUB_OFFLINE": "1", "PATH": f"{first}{os.pathsep}{os.environ['PATH']}"}
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_name=KERNEL["name"],
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(FOLDER)}},
        kernel_manager_class=forked_by(nursery) if nursery else AsyncKernelManager,
    )
    client.execute(env=told | environment)
    notebook.metadata = nbformat.from_dict({**notebook.metadata, "kernelspec": KERNEL, "language_info": LANGUAGE})
    return notebook


def forked_by(nursery: Nursery) -> type:
    """What manages kernels that are forked, as what they start of Python is."""
    from jupyter_client import AsyncKernelManager, LocalProvisioner

    class Forking(LocalProvisioner):
        async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
            its = {**kwargs["env"], "MPLBACKEND": INLINE, PYTHON: str(nursery.bin / "python")}
            self.process = nursery.start(cmd, cwd=kwargs["cwd"], env=its)
            return self.connection_info

    class Manager(AsyncKernelManager):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.provisioner = Forking(kernel_id=self.kernel_id, kernel_spec=self.kernel_spec, parent=self)

    return Manager


def complaints(notebook: Any) -> Iterator[str]:
    """What is wrong with the outputs of a notebook."""
    for number, cell in enumerate(notebook.cells, 1):
        for output in cell.get("outputs", []):
            text = _text(output)
            if output.output_type == "error" or any(word in text for word in _FAILED):
                yield f"cell {number} failed: {text[-600:]}"
            if output.get("name") == "stderr":
                yield f"cell {number} writes to stderr: {text[:600]}"
            if found := [place for place in (*_PLACES, tempfile.gettempdir()) if place in text]:
                yield f"cell {number} names {found[0]}: {text[max(0, text.index(found[0]) - 100) :][:300]}"
            if re.search(r"[\r\x1b]", text):
                yield f"cell {number} moves the cursor, as progress bars do: {text[:300]!r}"
            if any("widget" in kind for kind in output.get("data", {})):
                yield f"cell {number} shows a widget, which needs a kernel"


def _text(output: Any) -> str:
    """All that an output says, but for pictures."""
    parts = [str(text) for kind, text in output.get("data", {}).items() if not kind.startswith("image/")]
    return "\n".join([*parts, output.get("text", ""), *output.get("traceback", [])])


def main() -> None:
    """Execute whole, in place; a notebook with complaints is left as it was."""
    paths = [Path(name) for name in sys.argv[1:]] or sorted(FOLDER.glob("*.ipynb"))
    for path in paths:
        print(path.name, flush=True)
        with tempfile.TemporaryDirectory() as scratch:
            done = execute(read(path), Path(scratch))
        if found := list(complaints(done)):
            sys.exit("\n".join(found))
        nbformat.write(done, path)


if __name__ == "__main__":
    main()
