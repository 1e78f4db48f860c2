"""What one call holds at its peak, beyond what was held before."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

_LOCK = threading.Lock()


def peak_bytes(call: Callable[[], Any], device: torch.device) -> int:
    """Bytes of tensors held at most during a call.

    On a GPU torch's own count; elsewhere every allocation and release that torch records in one call is added up, since the
    process's resident size also counts what the allocator keeps.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with _silenced(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    events = recorded.profiler.kineto_results.events() if recorded.profiler is not None else []
    held = highest = 0
    for _, change in sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"):
        held += change
        highest = max(highest, held)
    return highest


@contextmanager
def _silenced() -> Iterator[None]:
    """Nothing reaches standard error: torch's recorder writes lines there, at each start, that no setting turns off."""
    with _LOCK:
        try:
            kept = os.dup(2)
        except OSError:  # a process without standard error has nothing to silence
            yield
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(nowhere)
            os.close(kept)
