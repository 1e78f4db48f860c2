"""Where figures come from: each shows itself in a notebook, and by ``plt.show()`` where there is something to show it.

Without a notebook or a screen nothing is registered anywhere: a figure lives as long as its user holds it.
"""

from __future__ import annotations

import io
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import matplotlib
from matplotlib.figure import Figure

KEPT = 20
"""So many figures wait for ``plt.show()`` at most; matplotlib warns beyond as many (``figure.max_open_warning``)."""
SILENT = frozenset({"agg", "cairo", "pdf", "pgf", "ps", "svg", "template"})
"""Backends that only write files: ``plt.show()`` shows nothing under them."""

_unshown: ContextVar[bool] = ContextVar("_unshown", default=False)
_waiting: deque[weakref.ref[Figure]] = deque()


class Picture(Figure):
    """A matplotlib figure that a notebook shows as a cell's last line, once, whatever ``%matplotlib`` says."""

    def png(self, dpi: float | str = "figure") -> bytes:
        """The picture as PNG, cropped to what is drawn.

        Args:
            dpi: Dots per inch, or ``"figure"`` for the figure's own.
        """
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", pad_inches=0.05)
        return buffer.getvalue()

    def _ipython_display_(self) -> None:
        from IPython.display import display

        data = {"image/png": self.png(), "text/plain": repr(self)}
        release(self)  # the inline backend would show it a second time when the cell ends
        display(data, raw=True)


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches, known to pyplot where ``plt.show()`` can show it."""
    options: dict[str, Any] = {"figsize": (width, height), "layout": "constrained"}
    if _unshown.get() or threading.current_thread() is not threading.main_thread():
        return Picture(**options)
    try:
        if matplotlib.get_backend().lower() in SILENT:
            return Picture(**options)
        from matplotlib import pyplot

        figure = pyplot.figure(FigureClass=Picture, **options)
    except ImportError:  # a backend was asked for by name that has no display here
        return Picture(**options)
    while len(_waiting) >= KEPT:
        oldest = _waiting.popleft()()
        if oldest is not None:
            release(oldest)
    _waiting.append(weakref.ref(figure))
    return figure


def release(figure: Figure) -> None:
    """Takes a figure off pyplot's list; whoever holds it keeps it."""
    if figure.canvas.manager is not None:
        from matplotlib import pyplot

        pyplot.close(figure)


@contextmanager
def unshown() -> Iterator[None]:
    """Figures made inside the block are for files and pages: pyplot never hears of them."""
    token = _unshown.set(True)
    try:
        yield
    finally:
        _unshown.reset(token)
