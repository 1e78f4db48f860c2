"""A network's weights, and one Ray for all tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

if find_spec("ray") is None:  # Not imported here: archives set Ray up before its import.
    pytest.skip("archives need the extra archive: ray[data], pyarrow", allow_module_level=True)
pytest.importorskip("pyarrow", reason="archives need the extra archive: ray[data], pyarrow")

import torch

from lrp_plugin.archive import Machines
from lrp_plugin.archive.pool import cluster
from lrp_plugin.cxr.reference import ReferenceCNN

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "reference.pt"
    torch.save(ReferenceCNN().state_dict(), path)
    return str(path)


@pytest.fixture(scope="session")
def ray() -> Iterator[Any]:
    """Ray for the tests in this process, the way a run of its own would start it."""
    with cluster(Machines(cpus=2, store=200_000_000)) as running:
        yield running
