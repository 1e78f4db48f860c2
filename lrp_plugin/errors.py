"""Errors and warnings of one's own."""

from __future__ import annotations

import difflib
import sys
import warnings
from collections.abc import Iterable
from typing import Any

_INSIDE = ("lrp_plugin", "torch", "captum", "contextlib")


class UnsupportedOperationError(RuntimeError):
    """An operation on a signal has no rule; the message names operation, module path and remedy."""


class UnsupportedOperationWarning(UserWarning):
    """An operation without a rule runs with its native gradient; the ledger books what that loses."""


class TargetError(ValueError, AssertionError):
    """A target that the output does not have. Captum raises ``AssertionError`` there, so it is one as well."""


class KindError(TypeError, ValueError):
    """An argument of another kind than its annotation says. Functions that checked by hand raised ``ValueError`` for some."""


def told(value: Any) -> str:
    """A value for a message of one line: what it is, and what it says where that is short."""
    if hasattr(value, "dtype") and tuple(getattr(value, "shape", ())) != ():
        return f"({type(value).__name__}, {str(value.dtype).removeprefix('torch.')}, shape {tuple(value.shape)})"
    if isinstance(value, (tuple, list)) and any(hasattr(item, "dtype") for item in value):
        inside = ", ".join(map(told, value[:3])) + (", ..." if len(value) > 3 else "")
        return f"({inside})" if isinstance(value, tuple) else f"[{inside}]"
    try:
        said = " ".join(repr(value).split())
    except ValueError:  # an int of more digits than Python prints
        said = f"a {type(value).__name__}"
    return said if len(said) <= 80 else said[:77] + "..."


def unknown(what: str, given: str, legal: Iterable[str]) -> str:
    """One line for a name that does not exist: what came, what was perhaps meant, what is legal."""
    names = list(legal)
    folded = {name.lower().replace("-", "_"): name for name in names}
    near = difflib.get_close_matches(given.lower().replace("-", "_"), folded, 3, 0.6)
    hint = f"did you mean {' or '.join(folded[one] for one in near)}? " if near else ""
    listed = ", ".join(names if len(names) <= 40 else names[:8])
    more = "" if len(names) <= 40 else f" and {len(names) - 8} more"
    return f"unknown {what} {told(given)}; {hint}legal are {listed}{more}"


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warns at the line that called the package, however deep inside it the reason was found."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _INSIDE:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level + 1)
