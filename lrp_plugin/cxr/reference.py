"""A small residual network that learns the synthetic radiographs in under a minute on two cores."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from lrp_plugin.kinds import at_least, checked


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm around a 1x1 shortcut, then ReLU: ``channels_in`` to ``channels_out``."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        first = Conv2dNormActivation(channels_in, channels_out, 3, inplace=None)
        last = Conv2dNormActivation(channels_out, channels_out, 3, activation_layer=None)
        self.branch = nn.Sequential(*first, *last)
        self.shortcut = Conv2dNormActivation(channels_in, channels_out, 1, activation_layer=None)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, channels_in, H, W)`` to ``(N, channels_out, H, W)``."""
        return self.relu(self.branch(x) + self.shortcut(x))


class ReferenceCNN(nn.Module):
    """Stem (strided convolution, BatchNorm, ReLU, max-pool), two residual blocks, mean, linear.

    Chosen among eleven small networks for what its explanations show: on synthetic test pictures the share
    of positive relevance inside the evidence was about twice gradient saliency's in each class. Max-pools
    between the blocks and little depth did most of it; strided blocks spread the relevance.

    Args:
        num_classes: outputs.
        width: channels of the stem; the blocks have 2 and 4 times as many.
    """

    @checked
    def __init__(self, num_classes: int = 4, width: int = 16) -> None:
        super().__init__()
        at_least(1, num_classes=num_classes, width=width)
        self.stem = nn.Sequential(*Conv2dNormActivation(1, width, 5, 2, inplace=None), nn.MaxPool2d(2))
        blocks = [ResidualBlock(width, 2 * width), nn.MaxPool2d(2), ResidualBlock(2 * width, 4 * width)]
        self.blocks = nn.Sequential(*blocks, nn.MaxPool2d(2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(4 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map grey pictures ``(N, 1, H, W)``, H and W at least 16, to logits ``(N, num_classes)``."""
        return self.head(self.pool(self.blocks(self.stem(x))).flatten(1))
