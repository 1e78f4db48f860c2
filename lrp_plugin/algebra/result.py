"""What a rule returns where the operation's value alone does not say it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor


class Result(NamedTuple):
    """A rule's whole answer; a rule that has nothing to add returns the value alone.

    Args:
        value: The operation's value, differentiable: a tensor, or a nest of them.
        port: The value's port, a signal of ones whose multiplier is relevance; or a function that makes it when it is
            asked for, once.
        constant: The value carries no relevance (a divisor, a normalizer).
        gate: The value is a gate because an argument is one (1 - z).
        pull: How the multiplier passes on to the sources, for a specialisation that joins the next operation to this one;
            the backward pass reads the value's memory no more then. None: nothing is joined.
        free: The backward pass reads the value's memory nowhere.
        masked: Entries of the value that are not positive pass no multiplier on.
    """

    value: Any
    port: Tensor | Callable[[], Tensor] | None = None
    constant: bool = False
    gate: bool = False
    pull: Any = None
    free: bool = False
    masked: bool = False


def held(value: Any) -> Result:
    """A value that carries no relevance."""
    return Result(value, constant=True)
