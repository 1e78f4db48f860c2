"""From a picture to a network's input and back: the model's own preprocessing where it says so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from lrp_plugin.kinds import checked

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


@checked
@dataclass(frozen=True)
class Preprocessing:
    """Resize, crop the middle, scale, normalize.

    Attributes:
        size: Height and width of the network's input in pixels; one number for a square.
        mean: What is subtracted from pixels in [0, 1], a number or one for each channel.
        std: What the rest is divided by.
        channels: 3, or 1 for grey.
        crop: The part of the shorter side that is kept: the picture is resized to ``size / crop`` first.
        scale: Pixels in [0, 1] are multiplied by it before `mean` is subtracted: 255 for networks that take bytes.
        interpolation: ``"bilinear"``, ``"bicubic"`` or ``"nearest"``.
        source: Where this comes from, as reports say it.

    Raises:
        ValueError: `size`, `crop` or `std` is not above 0, `mean` is not finite, or `channels` is not 1 or 3.
    """

    size: int | tuple[int, int] = 224
    mean: float | Sequence[float] = MEAN
    std: float | Sequence[float] = STD
    channels: int = 3
    crop: float = 1.0
    scale: float = 1.0
    interpolation: str = "bilinear"
    source: str = "as given"

    def __post_init__(self) -> None:
        if min(self.height_width) < 1 or not 0 < self.crop <= 1 or self.channels not in (1, 3):
            raise ValueError(
                f"size {self.size}, crop {self.crop}, channels {self.channels}; legal are a size of 1 pixel or more, a "
                "crop above 0 and at most 1, 1 or 3 channels"
            )
        for name in ("mean", "std"):
            values = _each(getattr(self, name), 0)
            if len(values) not in (1, self.channels):
                raise ValueError(f"{name} has {len(values)} values for {self.channels} channels; give 1 or as many")
            if not all(math.isfinite(value) for value in values):
                raise ValueError(f"{name} is {getattr(self, name)}; give finite numbers")
        if not all(value > 0 for value in _each(self.std, 0)):
            raise ValueError(f"std is {self.std}; give numbers above 0")

    @property
    def height_width(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.size if isinstance(self.size, tuple) else (self.size, self.size)

    def picture(self, image: Tensor) -> Tensor:
        """The part of the image that the network sees.

        Args:
            image: ``(1 or 3, H, W)`` in [0, 1].

        Returns:
            ``(channels, height, width)`` in [0, 1].
        """
        if image.shape[0] != self.channels:
            image = image.expand(3, -1, -1) if self.channels == 3 else transforms.rgb_to_grayscale(image)
        height, width = self.height_width
        enlarged = (round(height / self.crop), round(width / self.crop))
        # The whole of the target is covered, whatever the picture's proportions.
        factor = max(enlarged[0] / image.shape[1], enlarged[1] / image.shape[2])
        size = [max(round(image.shape[1] * factor), height), max(round(image.shape[2] * factor), width)]
        mode = InterpolationMode(self.interpolation)
        resized = transforms.resize(image, size, interpolation=mode, antialias=True)
        return transforms.center_crop(resized, [height, width]).clamp(0, 1)

    def inputs(self, picture: Tensor) -> Tensor:
        """The network's input ``(channels, height, width)`` for such a picture."""
        mean, std = _each(self.mean, self.channels), _each(self.std, self.channels)
        return transforms.normalize(picture * self.scale, mean, std)

    def undone(self, inputs: Tensor) -> Tensor:
        """The picture in [0, 1] behind an input ``(channels, H, W)``."""
        mean = torch.tensor(_each(self.mean, self.channels), dtype=inputs.dtype)[:, None, None]
        std = torch.tensor(_each(self.std, self.channels), dtype=inputs.dtype)[:, None, None]
        return (inputs * std + mean) / self.scale

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """The input of a black and of a white pixel, each ``(1, channels, 1, 1)``: what ``zbox`` needs."""
        black, white = torch.zeros(self.channels, 1, 1), torch.ones(self.channels, 1, 1)
        return self.inputs(black)[None], self.inputs(white)[None]


def _each(values: float | Sequence[float], channels: int) -> list[float]:
    if isinstance(values, (int, float)) or getattr(values, "ndim", 1) == 0:
        return [float(values)] * max(channels, 1)  # type: ignore[arg-type]
    found = [float(value) for value in values]
    return found * channels if len(found) == 1 and channels else found


def preprocessing_of(model: Any) -> Preprocessing:
    """The model's own preprocessing: its attribute ``preprocessing``, or by the package it comes from.

    timm's configuration, a Hugging Face folder's image processor, torchxrayvision's range, torchvision's ImageNet
    values; for other models ImageNet's at 224 pixels, and `Preprocessing.source` says that this is assumed.
    """
    own = getattr(model, "preprocessing", None)
    if isinstance(own, Preprocessing):
        return own
    for package, read in _READERS.items():
        if any(kind.__module__.split(".")[0] == package for kind in type(model).__mro__):
            return read(model)
    return Preprocessing(channels=_channels(model), source="ImageNet's mean and deviation at 224 pixels, assumed",
                         **_grey(model))  # fmt: skip


def _grey(model: Any) -> dict[str, Any]:
    return {"mean": 0.5, "std": 0.5} if _channels(model) == 1 else {}


def _channels(model: Any) -> int:
    """How many channels the first two-dimensional convolution takes, 1 or 3."""
    modules = model.modules() if isinstance(model, nn.Module) else ()
    first = next((module for module in modules if isinstance(module, nn.Conv2d)), None)
    return 1 if first is not None and first.in_channels == 1 else 3


def _timm(model: Any) -> Preprocessing:
    config = dict(getattr(model, "pretrained_cfg", None) or {})
    channels, height, width = config.get("input_size", (3, 224, 224))
    fixed: Any = getattr(model, "patch_embed", None)
    if getattr(fixed, "img_size", None) and getattr(fixed, "strict_img_size", False):
        height, width = fixed.img_size
    interpolation = config.get("interpolation", "bilinear")
    return Preprocessing(
        (height, width), tuple(config.get("mean", MEAN)), tuple(config.get("std", STD)), channels,
        config.get("crop_pct") or 1.0, 1.0, interpolation if interpolation != "random" else "bilinear",
        "timm's configuration",
    )  # fmt: skip


def _torchvision(model: Any) -> Preprocessing:
    kind = type(model).__name__
    # Of all of torchvision's classifiers Inception alone was trained on other pixels than 224; transformers say.
    size = 299 if kind == "Inception3" else getattr(model, "image_size", 224)
    if type(model).__module__.startswith("torchvision.models.detection"):
        return Preprocessing(320, 0.0, 1.0, source="torchvision's detectors, which normalize inside")
    return Preprocessing(size, channels=_channels(model), crop=224 / 256, source="torchvision's ImageNet values",
                         **_grey(model))  # fmt: skip


def _transformers(model: Any) -> Preprocessing:
    config = model.config
    folder = Path(str(getattr(config, "_name_or_path", "")))
    size = getattr(config, "image_size", None) or 224
    size = tuple(size) if isinstance(size, (list, tuple)) else int(size)
    if not (folder / "preprocessor_config.json").is_file():
        return Preprocessing(size, source="Hugging Face's size, ImageNet's mean and deviation assumed")
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    given = dict(getattr(processor, "crop_size", None) or getattr(processor, "size", None) or {})
    if "height" in given:
        size = (int(given["height"]), int(given["width"]))
    elif "shortest_edge" in given:
        size = int(given["shortest_edge"])
    normalizes = getattr(processor, "do_normalize", True)
    return Preprocessing(
        size, tuple(processor.image_mean) if normalizes else 0.0, tuple(processor.image_std) if normalizes else 1.0,
        source="the Hugging Face folder's image processor",
    )  # fmt: skip


def _torchxrayvision(model: Any) -> Preprocessing:
    size = 512 if "ResNet" in type(model).__name__ else 224
    # torchxrayvision's normalize(): [0, 1] becomes [-1024, 1024].
    return Preprocessing(size, 1024.0, 1.0, 1, scale=2048.0, source="torchxrayvision's range of -1024 to 1024")


_READERS = {
    "timm": _timm,
    "torchvision": _torchvision,
    "transformers": _transformers,
    "torchxrayvision": _torchxrayvision,
}
