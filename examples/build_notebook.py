"""Makes cxr_walkthrough.ipynb from cxr_walkthrough.py: ``python examples/build_notebook.py [--execute]``."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import nbformat

SOURCE = Path(__file__).with_name("cxr_walkthrough.py")
_MARKER = re.compile(r"^# %%( \[markdown\])?\n", re.MULTILINE)


def cells_of(text: str) -> list[tuple[str, str]]:
    """The cells of a script with ``# %%`` markers, as pairs of kind (``"code"`` or ``"markdown"``) and source."""
    places = list(_MARKER.finditer(text))
    ends = [place.start() for place in places[1:]] + [len(text)]
    cells = []
    for place, end in zip(places, ends):
        body = text[place.end() : end].strip("\n")
        if place.group(1):
            cells.append(("markdown", re.sub(r"^# ?", "", body, flags=re.MULTILINE)))
        else:
            cells.append(("code", body))
    return cells


def notebook_of(text: str) -> Any:
    """The notebook, without outputs; the same text gives the same notebook."""
    make = {"code": nbformat.v4.new_code_cell, "markdown": nbformat.v4.new_markdown_cell}
    cells = [make[kind](source, id=f"cell-{number}") for number, (kind, source) in enumerate(cells_of(text))]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def main() -> None:
    """Writes the notebook beside its source."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--execute", action="store_true", help="run it and keep the outputs")
    notebook = notebook_of(SOURCE.read_text())
    if parser.parse_args().execute:
        from nbclient import NotebookClient

        NotebookClient(notebook, timeout=600).execute()
    nbformat.write(notebook, SOURCE.with_suffix(".ipynb"))


if __name__ == "__main__":
    main()
