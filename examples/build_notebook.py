"""Makes cxr_walkthrough.ipynb from cxr_walkthrough.py: ``python examples/build_notebook.py [--execute]``."""

from __future__ import annotations

import argparse
import base64
import io
import re
from pathlib import Path
from typing import Any

import nbformat
from PIL import Image

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


def shrink(notebook: Any) -> None:
    """Pictures without an alpha channel, no time stamps, nothing of stderr (progress, warnings with this machine's paths)."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.get("outputs", []):
            pixels = output.get("data", {}).get("image/png")
            if pixels is not None:
                smaller = io.BytesIO()
                # A palette would save a third more, and put steps into every colour bar.
                Image.open(io.BytesIO(base64.b64decode(pixels))).convert("RGB").save(smaller, "PNG", optimize=True)
                output["data"]["image/png"] = base64.b64encode(smaller.getvalue()).decode()


def main() -> None:
    """Writes the notebook beside its source."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--execute", action="store_true", help="run it and keep the outputs")
    notebook = notebook_of(SOURCE.read_text())
    if parser.parse_args().execute:
        from nbclient import NotebookClient

        NotebookClient(notebook, timeout=1800).execute()
        shrink(notebook)
    nbformat.write(notebook, SOURCE.with_suffix(".ipynb"))


if __name__ == "__main__":
    main()
