"""Figures as files, whole or not there."""

from __future__ import annotations

import io
import os
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from lrp_plugin.errors import told
from lrp_plugin.files import write_atomically
from lrp_plugin.kinds import at_least, checked


@checked
def save_figure(figure: Figure, path: str | os.PathLike[str], *, dpi: int = 300, replace: bool = True) -> Path:
    """Save a figure at publication resolution, atomically.

    Args:
        figure: The figure.
        path: The suffix decides the format: ``.png``, ``.pdf``, ``.svg``, ...
        dpi: Dots per inch, for pixels inside vector formats too.
        replace: Whether an existing file may be replaced.

    Returns:
        The path.

    Raises:
        ValueError: The suffix is missing or names no format of matplotlib's.
        OSError: As in `write_atomically`; a file that exists already, where it may not be replaced.
    """
    form = Path(path).suffix[1:].lower()
    formats = figure.canvas.get_supported_filetypes()
    if form not in formats:
        raise ValueError(f"cannot save {told(str(path))}: the suffix must be one of {', '.join(sorted(formats))}")
    at_least(1, dpi=dpi)
    buffer = io.BytesIO()
    # Type 42 keeps text as text in PDF; journals refuse matplotlib's default, type 3.
    with matplotlib.rc_context({"pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "none"}):
        figure.savefig(buffer, format=form, dpi=dpi, bbox_inches="tight", pad_inches=0.03)
    return write_atomically(path, buffer.getvalue(), replace=replace)
