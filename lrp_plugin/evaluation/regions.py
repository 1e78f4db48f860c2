"""What is removed together: pixels, patches, superpixels, tokens, time steps, table columns.

Regions are a tensor of whole numbers that broadcasts to the inputs: entries with the same number belong together. A
function here makes it from the inputs ``(N, ...)``; a tensor of one's own does as well.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lrp_plugin.errors import told

Regions = Callable[[Tensor], Tensor]


def pixels() -> Regions:
    """Each place of a picture ``(N, C, H, W)`` (or volume, or signal ``(N, C, T)``), all its channels together."""
    return patches(1)


def patches(size: int) -> Regions:
    """Squares (cubes, spans) of ``size`` pixels; those at the end are smaller where the side is no multiple.

    Raises:
        ValueError: `size` is no positive integer; for inputs that are no pictures, or that one patch covers.
    """

    def label(inputs: Tensor) -> Tensor:
        if inputs.ndim < 3:
            raise ValueError(f"inputs {tuple(inputs.shape)} are no pictures (N, C, H, W); use tokens() or columns()")
        if 1 < size >= max(inputs.shape[2:]):  # nothing would come before anything else
            sides = " x ".join(map(str, inputs.shape[2:]))
            raise ValueError(f"patches({size}): one patch covers the whole input of {sides} pixels; give fewer pixels")
        return _grid(tuple(inputs.shape[2:]), size, inputs.device)[None, None]

    if not isinstance(size, int) or size < 1:
        raise ValueError(f"patches of {told(size)} pixels; give a positive integer")
    return label


def time_steps(length: int = 1) -> Regions:
    """Spans of ``length`` steps of a sequence ``(N, T)`` or ``(N, T, F)``, all features of a step together."""

    def label(inputs: Tensor) -> Tensor:
        if inputs.ndim < 2:
            raise ValueError(f"inputs {tuple(inputs.shape)} are no sequences (N, T) or (N, T, F)")
        steps = torch.arange(inputs.shape[1], device=inputs.device) // length
        return steps.view(1, -1, *[1] * (inputs.ndim - 2))

    if not isinstance(length, int) or length < 1:
        raise ValueError(f"time steps of length {told(length)}; give a positive integer")
    return label


def tokens() -> Regions:
    """Each token of ids ``(N, T)`` or of embeddings ``(N, T, E)``."""
    return time_steps(1)


def columns() -> Regions:
    """Each column of a table ``(N, F)``: the last dimension."""

    def label(inputs: Tensor) -> Tensor:
        return torch.arange(inputs.shape[-1], device=inputs.device).view(*[1] * (inputs.ndim - 1), -1)

    return label


def superpixels(count: int = 50, compactness: float | None = None) -> Regions:
    """About ``count`` superpixels of each picture (Achanta et al. 2012, SLIC, by scikit-image).

    Args:
        count: How many are asked for; SLIC may find some fewer.
        compactness: The weight of nearness against likeness, as scikit-image takes it for values in [0, 1]; None: 10 for
            colour, which is compared in Lab, 0.1 otherwise.

    Raises:
        ImportError: scikit-image is missing (``pip install scikit-image``).
    """

    def label(inputs: Tensor) -> Tensor:
        try:
            from skimage.segmentation import slic
        except ImportError as error:
            raise ImportError("superpixels need scikit-image: pip install scikit-image, or use patches(8)") from error
        if inputs.ndim != 4:
            raise ValueError(f"inputs {tuple(inputs.shape)} are no pictures (N, C, H, W)")
        found = []
        for picture in inputs.detach().cpu().double().numpy():
            low, high = picture.min(), picture.max()
            scaled = (picture - low) / max(high - low, 1e-12)
            weight = compactness or (10.0 if len(scaled) == 3 else 0.1)
            labels = slic(scaled, n_segments=count, compactness=weight, channel_axis=0, convert2lab=len(scaled) == 3)
            found.append(np.unique(labels, return_inverse=True)[1].reshape(labels.shape))
        return torch.from_numpy(np.stack(found)).to(inputs.device)[:, None]

    return label


def _grid(shape: tuple[int, ...], size: int, device: torch.device) -> Tensor:
    labels = torch.zeros(shape, dtype=torch.long, device=device)
    for dim, length in enumerate(shape):
        place = torch.arange(length, device=device) // size
        labels = labels * (-(-length // size)) + place.view(-1, *[1] * (len(shape) - dim - 1))
    return labels


def labels_of(regions: Regions | Tensor, inputs: Tensor) -> Tensor:
    """The regions of these inputs, checked; broadcastable to them, numbered from 0.

    Raises:
        ValueError: They do not fit the inputs.
    """
    labels = regions.to(inputs.device) if isinstance(regions, Tensor) else regions(inputs)
    if not isinstance(labels, Tensor):
        raise ValueError(
            f"regions returned {told(labels)}; legal is a function of inputs that returns a tensor of numbers"
        )
    try:
        fits = torch.broadcast_shapes(labels.shape, inputs.shape) == inputs.shape
    except RuntimeError:
        fits = False
    if not fits or labels.is_floating_point() or labels.ndim != inputs.ndim or int(labels.min()) < 0:
        raise ValueError(
            f"regions {tuple(labels.shape)} of {labels.dtype} do not fit inputs {tuple(inputs.shape)}: give whole "
            "numbers from 0 that broadcast to the inputs, as (1, 1, H, W) for pictures"
        )
    return labels.long()


def relevance_of(labels: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Relevance added up in each region ``(N, K)``, and which regions each example has ``(N, K)``."""
    count, total = len(relevance), int(labels.max()) + 1
    flat = relevance.detach().double().reshape(count, -1)
    places = labels.expand(relevance.shape).reshape(count, -1)
    sums = flat.new_zeros(count, total).scatter_add_(1, places, flat)
    present = torch.zeros_like(sums, dtype=torch.bool).scatter_(1, places, True)
    return sums, present
