"""``--device``: where to compute."""

from __future__ import annotations

import torch


def device_named(name: str) -> torch.device:
    """The device of that name.

    Raises:
        ValueError: This machine has none; those that it has are named.
    """
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # in words of torch's inside
        if isinstance(error, torch.OutOfMemoryError):
            raise ValueError(f"--device {name!r} has no memory left: {str(error).splitlines()[0]}") from error
        raise ValueError(f"--device {name!r}: there is none of this name; legal here are {_devices()}") from error
    return device


def _devices() -> str:
    """The processor, and what accelerators are there."""
    if not torch.accelerator.is_available():
        return "cpu"
    kind = str(torch.accelerator.current_accelerator())
    return ", ".join(["cpu", *(f"{kind}:{number}" for number in range(torch.accelerator.device_count()))])
