"""torchvision's 80 classification networks, given parameters that an explanation can be judged by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

BUILDERS = tuple(torchvision.models.list_models(module=torchvision.models))
GIANTS = ("regnet_y_128gf", "vit_h_14")
"""Too large for the slow test: ``python -m tests.engine.giants`` runs them one at a time."""

FAMILIES = {
    "alexnet": 64, "convnext_tiny": 64, "densenet121": 64, "efficientnet_b0": 64, "efficientnet_v2_s": 64,
    "googlenet": 64, "inception_v3": 75, "maxvit_t": 64, "mnasnet0_5": 64, "mobilenet_v2": 64,
    "mobilenet_v3_small": 64, "regnet_y_400mf": 64, "resnet18": 64, "resnext50_32x4d": 64, "shufflenet_v2_x0_5": 64,
    "squeezenet1_1": 64, "swin_t": 64, "swin_v2_t": 64, "vgg11": 32, "vit_b_32": 64, "wide_resnet50_2": 64,
}  # fmt: skip
"""The smallest member of each family, and the edge in pixels at which the default tests run it.

Inception needs 75 pixels; 64 elsewhere leaves every layer at least one position. MaxViT's windows of 7 fit 224 pixels
only: at 64 it has windows of 2. The slow test runs the builders as they are at 224.
"""

PIECEWISE_LINEAR = {
    "alexnet": 64, "densenet121": 64, "googlenet": 64, "inception_v3": 75, "mnasnet0_5": 64, "resnet18": 64,
    "resnet50": 64, "resnext50_32x4d": 64, "shufflenet_v2_x0_5": 64, "squeezenet1_1": 64, "vgg11": 32,
    "vgg11_bn": 32, "wide_resnet50_2": 64,
}  # fmt: skip
"""Networks of convolutions, ReLU, pooling and BatchNorm only: LRP-0 is gradient times input there.

MNASNet, DenseNet and the others have no other activation; GoogLeNet and Inception no other either.
"""

CALIBRATION = 8
"""Images whose statistics BatchNorm takes over: at 64 pixels the last layers see 4 positions of each."""

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def build(name: str, size: int | None = None, dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Module:
    """A builder's network in evaluation mode, randomized; ``size`` is the edge of its images in pixels."""
    torch.manual_seed(seed)
    model = _built(name, size).to(dtype).eval()
    randomize(model, images(name, size, CALIBRATION, dtype, seed + 1), seed)
    return model


def _built(name: str, size: int | None) -> nn.Module:
    if name == "maxvit_t" and size is not None and size != edge_of(name):
        return torchvision.models.MaxVit(
            input_size=(size, size), stem_channels=64, partition_size=2, block_channels=[64, 128, 256, 512],
            block_layers=[2, 2, 5, 2], head_dim=32, stochastic_depth_prob=0.2,
        )  # fmt: skip
    options: dict[str, Any] = {"image_size": size} if name.startswith("vit_") and size else {}
    if name in ("googlenet", "inception_v3"):
        options = {"init_weights": False}  # the truncated normal of scipy takes a minute
    return torchvision.models.get_model(name, weights=None, **options)


def edge_of(name: str) -> int:
    """The edge in pixels of the full-size check: 224, or 299 for Inception."""
    return 299 if name == "inception_v3" else 224


def images(
    name: str, size: int | None = None, batch: int = 2, dtype: torch.dtype = torch.float64, seed: int = 1
) -> Tensor:
    """Signed random images, shape (batch, 3, size, size)."""
    edge = size or edge_of(name)
    return torch.randn(batch, 3, edge, edge, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def randomize(model: nn.Module, batch: Tensor, seed: int = 0) -> None:
    """Gives BatchNorm statistics, biases and parameters that start at zero values that show something.

    torchvision starts ViT's head at zero and ConvNeXt's layer scale at 1e-6: an explanation of those is empty.
    BatchNorm's statistics are those of one batch, jittered, so that activations stay of order 1 at any depth (with
    statistics drawn freely a ResNet-152 overflows).

    Args:
        model: The network, in evaluation mode; changed in place.
        batch: Images, shape (N, 3, H, W).
        seed: Of everything drawn.
    """
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or float(parameter.abs().max()) < 1e-3:
                parameter.add_(0.1 * _normal(parameter, draw))
        norms = [module for module in model.modules() if isinstance(module, _BATCH_NORMS)]
        for norm in norms:
            norm.weight.copy_(0.5 + _uniform(norm.weight, draw))
        if norms:
            with _measuring(norms):
                model(batch)
        for norm in norms:
            assert norm.running_mean is not None and norm.running_var is not None
            norm.running_mean.add_(0.1 * norm.running_var.sqrt() * _normal(norm.running_mean, draw))
            norm.running_var.mul_(0.75 + 0.5 * _uniform(norm.running_var, draw))
            # A channel that is dead in this batch is not divided by its tiny deviation in the next.
            norm.running_var.clamp_(min=0.1 * float(norm.running_var.mean()) + 1e-6)


@contextmanager
def _measuring(norms: list[Any]) -> Iterator[None]:
    """BatchNorm layers take over the statistics of the batch that passes; dropout stays off."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum, norm.training = 1.0, True
    yield
    for norm, momentum in zip(norms, momenta):
        norm.momentum, norm.training = momentum, False


def _normal(like: Tensor, draw: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=draw, dtype=like.dtype)


def _uniform(like: Tensor, draw: torch.Generator) -> Tensor:
    return torch.rand(like.shape, generator=draw, dtype=like.dtype)
