"""The faults, a table for each room of the package: every file here has a list ``FAULTS``."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from tests.mutation.fault import Fault


def every_fault() -> list[Fault]:
    """All of them, room by room."""
    rooms = sorted(found.name for found in pkgutil.iter_modules(__path__))
    return [fault for room in rooms for fault in import_module(f"{__name__}.{room}").FAULTS]
