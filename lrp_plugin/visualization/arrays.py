"""What is given, as arrays that can be drawn: maps with their sign, images in [0, 1], masks as booleans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own abbreviation

from lrp_plugin.errors import told
from lrp_plugin.kinds import checked

Array = npt.NDArray[Any]
ArrayLike = Tensor | npt.NDArray[Any] | Sequence[Any]


def _as_array(name: str, values: ArrayLike) -> Array:
    given = type(values).__name__
    if isinstance(values, Tensor):
        # NumPy knows no bfloat16.
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    array = np.asarray(values)
    if array.dtype == object or array.size == 0:
        raise ValueError(f"{name} is {given} {array.shape}; give a non-empty tensor or array")
    return array


def _channels_first(name: str, array: Array, channels: Sequence[int] | None = None) -> Array:
    """One picture as ``(C, H, W)``; `channels` names the legal C, None allows any."""
    shape = array.shape
    if array.ndim == 4 and shape[0] == 1:
        array = array[0]
    if array.ndim == 2:
        array = array[None]
    # (H, W, C) is what image readers return; a first axis of 1 or 3 decides for (C, H, W).
    if array.ndim == 3 and array.shape[0] not in (1, 3) and array.shape[2] in (1, 3):
        array = np.moveaxis(array, 2, 0)
    if array.ndim != 3 or (channels is not None and array.shape[0] not in channels):
        hint = "; one example at a time: index it, or use plot_batch" if len(shape) == 4 else ""
        raise ValueError(f"{name} has shape {shape}; give (C, H, W), (H, W) or (1, C, H, W){hint}")
    return array


@checked
def relevance_map(relevance: ArrayLike, size: tuple[int, int] | None = None) -> Array:
    """One map for the eye: channels summed with their sign, resized where a size is given.

    Args:
        relevance: ``(C, H, W)``, ``(H, W)`` or ``(1, C, H, W)``, any unit.
        size: Height and width in pixels to resize to (bilinear, corners not aligned); None keeps it. Resizing
            is for the eye only: the sum over the pixels is not kept.

    Returns:
        ``(H, W)``, float64.

    Raises:
        ValueError: The shape is not legal, or a value is NaN or infinite.
    """
    array = _channels_first("relevance", _as_array("relevance", relevance)).astype(np.float64).sum(0)
    if not np.isfinite(array).all():
        raise ValueError(
            f"relevance holds {np.count_nonzero(~np.isfinite(array))} pixels that are NaN or infinite; such "
            "a map is not drawn, since the picture would hide it"
        )
    if size is None or array.shape == tuple(size):
        return array
    resized = F.interpolate(torch.from_numpy(array)[None, None], size=tuple(size), mode="bilinear")
    return resized[0, 0].numpy()


def pooled(values: Array, side: int) -> Array:
    """A map ``(H, W)`` in which each square of `side` pixels shows its mean; the border's squares may be cut."""
    if side == 1:
        return values
    mean = F.avg_pool2d(torch.from_numpy(values)[None, None], side, ceil_mode=True)[0, 0].numpy()
    return mean.repeat(side, 0).repeat(side, 1)[: values.shape[0], : values.shape[1]]


def smoothed(values: Array, deviation: float) -> Array:
    """A map ``(H, W)`` blurred by a Gaussian of this standard deviation in pixels, the border's values continued."""
    if deviation == 0:
        return values
    reach = int(np.ceil(3 * deviation))
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / deviation) ** 2)
    weights = (weights / weights.sum())[None, None]
    padded = F.pad(torch.from_numpy(values)[None, None], [reach] * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, weights[..., None, :]), weights[..., None])[0, 0].numpy()


def display_image(
    image: ArrayLike, mean: float | Sequence[float] | None = None, std: float | Sequence[float] | None = None
) -> Array:
    """The image as it can be shown.

    Args:
        image: Grey or RGB: ``(C, H, W)``, ``(H, W)``, ``(1, C, H, W)`` or ``(H, W, C)``; uint8 is divided by
        255.
        mean: What the normalisation subtracted, a number or one for each channel; None if it did not.
        std: What it divided by.

    Returns:
        ``(H, W)`` for a grey image (also for three equal channels), ``(H, W, 3)`` for colour, in [0, 1].
        Values outside [0, 1] (raw detector counts, or a normalised image without `mean` and `std`) are
        windowed to their own minimum and maximum.

    Raises:
        ValueError: The shape is not legal, or `mean` and `std` do not fit the channels.
    """
    array = _channels_first("image", _as_array("image", image), channels=(1, 3))
    array = array / 255.0 if array.dtype == np.uint8 else array.astype(np.float64)
    for name, values, neutral in (("std", std, 1.0), ("mean", mean, 0.0)):
        try:
            factor = np.asarray(neutral if values is None else values, dtype=np.float64)
        except (TypeError, ValueError):
            raise ValueError(f"{name}={told(values)}; give a number, or one for each channel") from None
        if factor.size not in (1, len(array)):
            count = len(array)
            raise ValueError(f"{name} has {factor.size} values for {count} channels; give 1 or {count}")
        array = array * factor.reshape(-1, 1, 1) if name == "std" else array + factor.reshape(-1, 1, 1)
    # Denormalising in single precision ends up to 1e-6 outside; that is no reason to window.
    if array.min() < -1e-4 or array.max() > 1 + 1e-4:
        array = (array - array.min()) / (array.max() - array.min() or 1.0)
    array = array.clip(0, 1)
    if len(array) == 1 or (np.array_equal(array[0], array[1]) and np.array_equal(array[0], array[2])):
        return array[0]
    return np.moveaxis(array, 0, 2)


@checked
def region_mask(mask: ArrayLike, size: tuple[int, int]) -> Array:
    """A mask as booleans of a given size, resized by nearest neighbour.

    Args:
        mask: ``(H, W)``, ``(1, H, W)`` or ``(1, 1, H, W)``; inside where above 0.
        size: Height and width in pixels.

    Returns:
        ``(height, width)``, bool.

    Raises:
        ValueError: The shape is not legal.
    """
    array = _channels_first("mask", _as_array("mask", mask), channels=(1,))[0] > 0
    if array.shape == tuple(size):
        return array
    rows = ((np.arange(size[0]) + 0.5) * array.shape[0] / size[0]).astype(int)
    columns = ((np.arange(size[1]) + 0.5) * array.shape[1] / size[1]).astype(int)
    return array[rows[:, None], columns]
