"""A few radiographs in files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from lrp_plugin.synthetic import SyntheticCXR


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
