"""An exact miniature of the COVID-19 Radiography Database, and one thread for small work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

FOLDERS = {
    "COVID": "COVID",
    "Lung Opacity": "Lung_Opacity",
    "Normal": "Normal",
    "Viral Pneumonia": "Viral Pneumonia",
}
SMALL_COUNTS = {"COVID": 12, "Lung Opacity": 4, "Normal": 5, "Viral Pneumonia": 3}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _write_database(root: Path) -> Path:
    """Write the database as Kaggle ships it: 299 px pictures, 256 px masks, xlsx lists."""
    base = root / "COVID-19_Radiography_Dataset"
    rng = np.random.default_rng(0)
    for name, folder in FOLDERS.items():
        for kind in ("images", "masks"):
            (base / folder / kind).mkdir(parents=True)
        for number in range(1, SMALL_COUNTS[name] + 1):
            file = f"{folder}-{number}.png"
            pixels = rng.integers(0, 256, (299, 299), np.uint8)
            Image.fromarray(pixels).save(base / folder / "images" / file, compress_level=1)
            mask = np.zeros((256, 256), np.uint8)
            mask[64:192, 32:96] = mask[64:192, 160:224] = 255
            # The real masks are RGB files.
            Image.fromarray(np.stack([mask] * 3, -1)).save(base / folder / "masks" / file, compress_level=1)
        _write_list(base / f"{folder}.metadata.xlsx", folder, SMALL_COUNTS[name])
    (base / "README.md.txt").write_text("COVID-19 CHEST X-RAY DATABASE\n")
    return base


def _write_list(path: Path, folder: str, count: int) -> None:
    from openpyxl import Workbook

    book = Workbook()
    book.active.append(["FILE NAME", "FORMAT", "SIZE", "URL"])
    # The list of normal pictures says NORMAL-1 for the file Normal-1.png.
    stem = "NORMAL" if folder == "Normal" else folder
    for number in range(1, count + 1):
        book.active.append([f"{stem}-{number}", "PNG", "256*256", f"https://example.org/{folder}/{number}"])
    book.save(path)


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature, to be read only."""
    return _write_database(tmp_path_factory.mktemp("data"))


@pytest.fixture
def own_database(tmp_path: Path) -> Path:
    """A miniature to damage."""
    return _write_database(tmp_path)
