"""Files that are whole or not there: written beside their place and moved into it at once."""

from __future__ import annotations

import io
import os
import uuid
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure


def write_atomically(path: str | os.PathLike[str], content: bytes) -> Path:
    """Write a file so that no reader and no crash ever meets half of it.

    Args:
        path: Where to; missing parent folders are made. An existing file is replaced.
        content: The bytes.

    Returns:
        The path.

    Raises:
        OSError: The disk is full, the folder not writable, ...; what stood there before is still there.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, since os.replace is atomic only within one file system. Not tempfile: its files are
    # readable by their owner alone.
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def save_figure(figure: Figure, path: str | os.PathLike[str], *, dpi: int = 300) -> Path:
    """Save a figure at publication resolution, atomically.

    Args:
        figure: The figure.
        path: The suffix decides the format: ``.png``, ``.pdf``, ``.svg``, ...
        dpi: Dots per inch, for pixels inside vector formats too.

    Returns:
        The path.

    Raises:
        ValueError: The suffix is missing or names no format of matplotlib's.
        OSError: As in `write_atomically`.
    """
    form = Path(path).suffix[1:].lower()
    formats = figure.canvas.get_supported_filetypes()
    if form not in formats:
        raise ValueError(f"cannot save {str(path)!r}: the suffix must be one of {', '.join(sorted(formats))}")
    buffer = io.BytesIO()
    # Type 42 keeps text as text in PDF; journals refuse matplotlib's default, type 3.
    with matplotlib.rc_context({"pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "none"}):
        figure.savefig(buffer, format=form, dpi=dpi, bbox_inches="tight", pad_inches=0.03)
    return write_atomically(path, buffer.getvalue())
