"""A few radiographs in files, a network's weights, and one Ray for all tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if find_spec("ray") is None:  # Not imported here: archives set Ray up before its import.
    pytest.skip("archives need the extra archive: ray[data], pyarrow", allow_module_level=True)
pytest.importorskip("pyarrow", reason="archives need the extra archive: ray[data], pyarrow")

import torch
from PIL import Image

from lrp_plugin.archive import Machines
from lrp_plugin.archive.pool import cluster
from lrp_plugin.cxr.reference import ReferenceCNN
from lrp_plugin.synthetic import SyntheticCXR

sys.path.insert(0, str(Path(__file__).parent))


def write_radiographs(folder: Path, count: int, size: int = 48) -> Path:
    """Pictures, lung masks and the list of them; returns the list."""
    data = SyntheticCXR(count, size=size)
    lines = ["id,path,label,target,mask"]
    for place in ("images", "lungs"):
        (folder / place).mkdir(parents=True)
    for index in range(count):
        sample = data[index]
        pixels = (sample["image"][0].numpy() * 255).round().astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{index}.png")
        Image.fromarray(sample["lungs"][0].numpy() * 255).save(folder / "lungs" / f"{index}.png")
        label = data.classes[data.labels[index]]
        lines.append(f"p{index},images/{index}.png,{label},{data.labels[index]},lungs/{index}.png")
    (folder / "list.csv").write_text("\n".join(lines) + "\n")
    return folder / "list.csv"


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
