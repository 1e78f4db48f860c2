"""Errors and warnings of one's own."""

from __future__ import annotations

import sys
import warnings

_INSIDE = ("lrp_plugin", "torch", "captum", "contextlib")


class UnsupportedOperationError(RuntimeError):
    """An operation on a signal has no rule; the message names operation, module path and remedy."""


class UnsupportedOperationWarning(UserWarning):
    """An operation without a rule runs with its native gradient; the ledger books what that loses."""


class TargetError(ValueError, AssertionError):
    """A target that the output does not have. Captum raises ``AssertionError`` there, so it is one as well."""


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warns at the line that called the package, however deep inside it the reason was found."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _INSIDE:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level + 1)
