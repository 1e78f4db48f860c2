"""lxt's efficient rules give the same relevance on torchvision's ViT (``pip install --no-deps lxt==2.1``)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import lxt_reference
import pytest
import torch

from lrp_plugin import UnifiedLRP, composites

pytestmark = pytest.mark.peers


@pytest.mark.parametrize("kind", ["cp", "attn"])
def test_lxt_agrees_on_torchvision_s_vision_transformer(kind: str, tmp_path: Path) -> None:
    """Relative 1e-7: lxt divides by x + 1e-10 in GELU's identity rule."""
    pytest.importorskip("lxt", reason="lxt 2.1 is not installed: pip install --no-deps lxt==2.1")
    model = lxt_reference.network()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.save({"state": model.state_dict(), "images": images}, tmp_path / "given.pt")
    command = [sys.executable, "-W", "ignore", lxt_reference.__file__, kind, str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    theirs = torch.load(tmp_path / "relevance.pt")
    composite = composites.cp_lrp(epsilon=0.0) if kind == "cp" else composites.attnlrp(epsilon=0.0)
    lrp = UnifiedLRP(model, composite=composite, strict=True)
    found = lrp.attribute(images, target=3)
    with torch.no_grad():
        torch.testing.assert_close(theirs["output"], model(images))
    assert (found - theirs["relevance"]).abs().max() < 1e-7 * found.abs().max()
    other = composites.attnlrp(epsilon=0.0) if kind == "cp" else composites.cp_lrp(epsilon=0.0)
    wrong = UnifiedLRP(model, composite=other).attribute(images, target=3)
    assert (wrong - theirs["relevance"]).abs().max() > 1e-3 * found.abs().max()  # the two rules can be told apart
