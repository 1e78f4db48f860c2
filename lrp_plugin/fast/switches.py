"""Which specialisations are ruled out: none, or all of them by ``LRP_FAST=0`` in the environment, or some by name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Set
from contextlib import contextmanager

EVERYTHING = {
    "native_whole", "one_side", "two_sides_in_one", "two_sides", "own_sign_in_one", "favoured", "favoured_side",
    "changed_weight", "from_port", "between_bounds", "waiting", "scale", "sum", "curve", "attention", "map_then_relu",
    "map_then_scale", "map_then_curve", "sum_then_relu", "scale_then_relu", "masked_relu", "one_kernel",
}  # fmt: skip
"""Every specialisation by name."""
off: Set[str] = EVERYTHING if os.environ.get("LRP_FAST") == "0" else frozenset()
"""Those that are ruled out."""


def add(name: str) -> None:
    """Another specialisation's name. Raises ``ValueError`` where it is taken."""
    if name in EVERYTHING:
        raise ValueError(f"a specialisation named {name!r} is there already; choose another name")
    EVERYTHING.add(name)


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Rules specialisations out meanwhile, in all threads; without names all of them.

    Raises:
        ValueError: For a name that there is not.
    """
    global off
    unknown = sorted(set(names) - EVERYTHING)
    if unknown:
        raise ValueError(f"no specialisation is named {', '.join(unknown)}; legal are {', '.join(sorted(EVERYTHING))}")
    before = off
    off = before | (frozenset(names) or frozenset(EVERYTHING))
    try:
        yield
    finally:
        off = before
