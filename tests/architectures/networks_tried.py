"""Models of timm, torchxrayvision and torchvision, small inputs for each, and networks written here."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

TIMM = {
    "resnet": ("resnet10t", 64), "vit": ("vit_tiny_patch16_224", 224), "swin": ("swin_tiny_patch4_window7_224", 224),
    "convnext": ("convnext_atto", 64), "efficientnet": ("efficientnet_lite0", 64),
    "mobilenetv3": ("mobilenetv3_small_050", 64), "maxvit": ("maxvit_rmlp_pico_rw_256", 256),
    "mixer": ("mixer_s32_224", 224), "eva": ("eva02_tiny_patch14_224", 224),
}  # fmt: skip
VIDEO = {
    "r3d_18": (4, 32), "mc3_18": (4, 32), "r2plus1d_18": (4, 32), "s3d": (14, 224), "mvit_v1_b": (4, 64),
    "mvit_v2_s": (4, 64), "swin3d_t": (4, 32), "swin3d_s": (4, 32), "swin3d_b": (4, 32),
}  # fmt: skip
"""torchvision's builders of video networks: frames, and pixels of a side."""
SEGMENTATION = (
    "fcn_resnet50", "fcn_resnet101", "deeplabv3_resnet50", "deeplabv3_resnet101", "deeplabv3_mobilenet_v3_large",
    "lraspp_mobilenet_v3_large",
)  # fmt: skip
DETECTION = ("fasterrcnn_mobilenet_v3_large_320_fpn", "ssdlite320_mobilenet_v3_large")


def first_scores(found: list[dict[str, Tensor]]) -> Tensor:
    """The scores of the three best boxes of each image, from what a detector returns; (N, 3)."""
    return torch.stack([one["scores"][:3] for one in found])


def stirred(model: nn.Module, seed: int = 0) -> nn.Module:
    """Vectors (biases, scales) and statistics drawn anew, matrices as built; float64, evaluating."""
    torch.manual_seed(seed)
    model = model.double().eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.dim() == 1 and tensor.is_floating_point():
                away = 1.0 if name.endswith(("weight", "running_var")) else 0.0
                tensor.copy_(away + 0.1 * torch.randn_like(tensor))
            elif tensor.is_floating_point() and not tensor.any():  # a head that starts at zero explains nothing
                tensor.copy_(0.1 * torch.randn_like(tensor))
    return model


def images(size: int, count: int = 1) -> Tensor:
    """Images (N, 3, size, size)."""
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class UNet(nn.Module):
    """Two levels: convolution, group norm, pooling; transposed convolution or interpolation, concatenation."""

    def __init__(self, upsample: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.SiLU())
        self.deep = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(4, 8, 3, padding=1), nn.InstanceNorm2d(8, True), nn.GELU())
        self.up = upsample(8, 4)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (N, 2, H, W)."""
        skip = self.down(x)
        return self.head(torch.cat([skip, self.up(self.deep(skip))], 1))


class Interpolated(nn.Module):
    """Bilinear upsampling, then a convolution."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Twice the size."""
        return self.conv(functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False))


def transposed(inside: int, outside: int) -> nn.Module:
    """Upsampling by a transposed convolution."""
    return nn.ConvTranspose2d(inside, outside, 2, stride=2)


def one_dimensional() -> nn.Module:
    """An ECG network: (N, 2, T) to three classes."""
    return nn.Sequential(
        nn.Conv1d(2, 4, 5, padding=2), nn.BatchNorm1d(4), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(4, 6, 3, dilation=2),
        nn.ELU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


def three_dimensional() -> nn.Module:
    """A CT network: (N, 1, D, H, W) to three classes."""
    return nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(4, 6, 3),
        nn.Hardswish(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip
