"""Sphinx: `make docs` builds these pages into docs/built, strictly."""

import shutil
import sys
from pathlib import Path

from hfadapt import __version__

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

project = "hfadapt"
copyright = "the authors of hfadapt"
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "pages",
]
exclude_patterns = ["built", "jupyter_execute", "**/.ipynb_checkpoints"]
nitpicky = True
# Names of other libraries, whose own pages can't be asked while building offline, and of type variables.
nitpick_ignore_regex = [(r"py:.*", r"(?!hfadapt\.(read|plan|adapt|score|predict|check|export|publish|open_run)$).*")]

default_role = "code"
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
napoleon_google_docstring = True

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
# Notebooks are committed with their outputs; `make notebooks` runs them.
nb_execution_mode = "off"
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True

html_theme = "furo"
html_title = f"hfadapt {release}"
html_static_path: list[str] = []
html_show_sphinx = False

shutil.rmtree(HERE / "notebooks", ignore_errors=True)
shutil.copytree(HERE.parent / "notebooks", HERE / "notebooks", ignore=shutil.ignore_patterns("runs", ".*"))
