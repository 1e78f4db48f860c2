"""One thread for every test, and Hypothesis without a clock: shared machines are slow at unforeseen times."""

from __future__ import annotations

import os

import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

for name, examples in (("default", 25), ("ci", 100)):
    settings.register_profile(
        name, max_examples=examples, deadline=None, derandomize=True, print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )  # fmt: skip
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
