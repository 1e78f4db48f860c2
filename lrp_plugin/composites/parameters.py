"""What the package's own rules' parameters may be; a rule of one's own checks its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from lrp_plugin.errors import told

BIASES = ("absorb", "ignore", "distribute")
_NUMBERS = ("epsilon", "gamma", "stabilizer", "alpha", "beta")
_NEVER_NEGATIVE = ("epsilon", "gamma", "stabilizer")


def check_parameters(given: Mapping[str, Any], whose: str = "") -> None:
    """Raises ``ValueError`` for a value that is no number, not finite, negative where that has no meaning, or unknown.

    Args:
        given: Parameters by name; those of other names are not looked at.
        whose: Whose they are, for the message (``"rule 'gamma': "``).
    """
    for name in _NUMBERS:
        if name in given:
            _check_number(name, given[name], whose)
    if "bias" in given and not (isinstance(given["bias"], str) and given["bias"] in BIASES):
        raise ValueError(f"{whose}bias={told(given['bias'])}; legal are {', '.join(map(repr, BIASES))}")
    if "alpha" in given and "beta" in given:
        alpha, beta = float(given["alpha"]), float(given["beta"])
        if not math.isclose(alpha - beta, 1, abs_tol=1e-6) or beta < 0:
            raise ValueError(f"{whose}alpha={alpha}, beta={beta}: legal are alpha - beta = 1 with beta >= 0")
    if "low" in given and "high" in given:
        check_bounds(given["low"], given["high"], whose)


def _check_number(name: str, value: Any, whose: str) -> None:
    number = isinstance(value, (Real, Tensor)) and not isinstance(value, bool)
    if isinstance(value, Tensor):
        value = value.detach() if value.dim() == 0 else value
        number = value.numel() == 1 and not value.is_complex() and value.dtype != torch.bool
    legal = "numbers >= 0 (finite)" if name in _NEVER_NEGATIVE else "finite numbers"
    if not number or not _is_finite(value) or (name in _NEVER_NEGATIVE and value < 0):
        raise ValueError(f"{whose}{name}={told(value)}: legal are {legal}")


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond what a float holds
        return False


def check_bounds(low: Any, high: Any, whose: str = "") -> None:
    """Raises ``ValueError`` for bounds of z^B that are no numbers, or cross."""
    try:
        lowest, highest = (torch.as_tensor(bound, dtype=torch.float64, device="cpu") for bound in (low, high))
        crossed = not bool((lowest <= highest).all())
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{whose}low and high must be numbers or tensors of one shape ({error})") from error
    if crossed or not bool(torch.isfinite(lowest).all() and torch.isfinite(highest).all()):
        raise ValueError(
            f"{whose}low={_range(lowest)}, high={_range(highest)}: legal are finite bounds, low <= high everywhere"
        )


def _range(bound: Tensor) -> str:
    return f"{float(bound):g}" if bound.numel() == 1 else f"{float(bound.min()):g} to {float(bound.max()):g}"
