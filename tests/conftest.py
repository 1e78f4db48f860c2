"""One thread for every test, and Hypothesis without a clock: shared machines are slow at unforeseen times."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

for name, examples in (("default", 25), ("ci", 100)):
    settings.register_profile(
        name, max_examples=examples, deadline=None, derandomize=True, print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )  # fmt: skip
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[], AbstractContextManager[None]]:
    """A block in which the kernel answers ENOSPC to every byte that `lrp_plugin.files` means for the disk."""

    @contextmanager
    def full() -> Iterator[None]:
        real = os.open

        def nowhere(path: object, flags: int, *rest: object, **more: object) -> int:
            return real("/dev/full", os.O_WRONLY) if flags & os.O_EXCL else real(path, flags, *rest, **more)

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", nowhere)
            yield

    return full
