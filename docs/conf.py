"""The site: ``sphinx-build -W -b html docs site``. Notebooks run while it is built; it is readable from the file system."""

from __future__ import annotations

import os
import re
import sys
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("PYTHONWARNINGS", "ignore:IProgress not found")  # tqdm's, which Captum imports

from lrp_plugin import __version__  # noqa: E402

project = "lrp-plugin"
author = "the lrp-plugin maintainers"
version = release = __version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx.ext.viewcode",
]
html_theme = "furo"
html_title = "lrp-plugin"
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
exclude_patterns = ["_build", "jupyter_execute", "README.md"]
root_doc = "index"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

nb_execution_mode = os.environ.get("LRP_DOCS_EXECUTE", "force")
nb_execution_timeout = 1200  # seconds a cell; a laden machine is no broken page
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
nb_execution_excludepatterns = ["design.md", "evidence.md", "architectures.md"]
nb_mime_priority_overrides = [("html", "image/png", 5)]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
napoleon_google_docstring = True
napoleon_use_ivar = True
# Single backquotes in docstrings name things of the package; they are shown as code.
default_role = "code"

INVENTORIES = {
    "python": "https://docs.python.org/3",
    "torch": "https://docs.pytorch.org/docs/stable",
    "captum": "https://captum.ai/api",
}


def reachable(address: str) -> bool:
    """Whether an inventory can be had here; where not, links to it are plain text and the build goes on."""
    try:
        with urllib.request.urlopen(f"{address}/objects.inv", timeout=5):
            return True
    except (OSError, ValueError):
        return False


intersphinx_mapping = {name: (address, None) for name, address in INVENTORIES.items() if reachable(address)}


def leave_out_absent(app: Any, docname: str, source: list[str]) -> None:
    """Pages that are listed but not there yet are left out of the tables of contents."""
    folder = Path(app.srcdir, docname).parent

    def kept(block: re.Match[str]) -> str:
        lines = block[0].split("\n")
        named = re.compile(r"^(?:.*<)?([\w/-]+)>?$")
        return "\n".join(
            line for line in lines if not (found := named.match(line)) or (folder / f"{found[1]}.md").is_file()
        )

    source[0] = re.sub(r"```\{toctree\}\n.*?\n```", kept, source[0], flags=re.DOTALL)


def setup(app: Any) -> None:
    """Sphinx's hook."""
    app.connect("source-read", leave_out_absent)
