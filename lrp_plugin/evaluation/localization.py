"""Is the evidence where it should be? Localization of relevance against a mask or boxes.

Four measures of one map against one mask (the lungs, or a known finding), each in [0, 1], 1 best:

==================  =======================================================================================
`mask_share`        positive relevance inside the mask / all positive relevance. Relevance mass accuracy of
                    Arras et al. 2022 (CLEVR-XAI, Information Fusion 81, arXiv:2003.07258), pooled over
                    the channels as "sum,pos".
`rank_accuracy`     share of the K most relevant pixels that lie inside, K = the mask's area. Relevance rank
                    accuracy, same paper.
`pointing_game`     1 if the most relevant pixel lies inside, else 0 (Zhang et al. 2018, Top-down neural
                    attention by excitation backprop, IJCV 126, arXiv:1608.00507).
`top_k_inside`      share of the k most relevant pixels that lie inside, k of one's own: the top-k intersection of
                    Theiner et al. 2022 (arXiv:2104.14995).
==================  =======================================================================================

A map that knows nothing scores the mask's area (`mask_area`) in all four on average: that is chance. A map
without any positive relevance and a mask without any pixel have no score: the value is NaN, which
`bootstrap_mean` leaves out and counts.

    >>> shares = mask_share(relevance, lungs)                       # (N,)
    >>> bootstrap_mean(shares)                                      # Interval(mean=0.81, low=0.78, high=0.84, ...)
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own abbreviation

from lrp_plugin.errors import told
from lrp_plugin.kinds import checked

__all__ = [
    "MEASURES",
    "boxes_to_masks",
    "mask_area",
    "mask_share",
    "pointing_game",
    "rank_accuracy",
    "top_k_inside",
]


def _map_and_mask(relevance: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Relevance summed over the channels and the mask as booleans, both checked, ``(N, H * W)``."""
    for name, tensor in (("relevance", relevance), ("mask", mask)):
        if not isinstance(tensor, Tensor) or tensor.ndim not in (2, 3, 4):
            given = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(f"{name} is {given}; give a tensor (N, C, H, W), (N, H, W) or (H, W)")
    if not torch.isfinite(relevance).all():
        bad = int((~torch.isfinite(relevance)).sum())
        raise ValueError(f"relevance holds {bad} values that are NaN or infinite; such a map cannot be scored")
    # Half precision would lose small shares in the sum over a hundred thousand pixels.
    pooled = relevance.detach().double()
    pooled = pooled.sum(1) if pooled.ndim == 4 else pooled.reshape(-1, *pooled.shape[-2:])
    if mask.ndim == 4 and mask.shape[1] != 1:
        raise ValueError(f"mask has {mask.shape[1]} channels, shape {tuple(mask.shape)}; give (N, 1, H, W)")
    inside = mask.detach().reshape(-1, *mask.shape[-2:]).to(pooled.device)
    if inside.dtype != torch.bool and not ((inside == 0) | (inside == 1)).all():
        raise ValueError("mask holds values other than 0 and 1; threshold it first, e.g. mask > 0")
    if inside.shape != pooled.shape:
        raise ValueError(
            f"mask {tuple(mask.shape)} does not match relevance {tuple(relevance.shape)}; resize it to the "
            "map with torchvision.transforms.v2.functional.resize(mask, size, interpolation=NEAREST)"
        )
    return pooled.flatten(1), inside.flatten(1).bool()


def _without_score(pooled: Tensor, inside: Tensor) -> Tensor:
    """Which examples have no score ``(N,)``: nothing positive in the map, or nothing in the mask."""
    return (pooled.amax(1) <= 0) | ~inside.any(1)


@checked
def mask_area(mask: Tensor) -> Tensor:
    """The mask's share of the image, which is what a map without knowledge would score.

    Args:
        mask: Booleans or 0 and 1, ``(N, 1, H, W)``, ``(N, H, W)`` or ``(H, W)``.

    Returns:
        ``(N,)``, float64, in [0, 1].

    Raises:
        ValueError: The shape or the values of `mask` are not legal.
    """
    _, inside = _map_and_mask(torch.zeros(mask.shape), mask)
    return inside.double().mean(1)


def mask_share(relevance: Tensor, mask: Tensor) -> Tensor:
    """Relevance mass accuracy: the share of positive relevance that lies inside the mask (Arras et al. 2022).

    Channels are summed with their sign before the positive part is taken, so a pixel that speaks for the
    class in one channel and against it in another counts with the balance.

    Args:
        relevance: ``(N, C, H, W)``, ``(N, H, W)`` or ``(H, W)``, any unit.
        mask: Booleans or 0 and 1, ``(N, 1, H, W)``, ``(N, H, W)`` or ``(H, W)``, of the same H and W.

    Returns:
        ``(N,)``, float64, in [0, 1]; NaN where the map has no positive value or the mask no pixel.

    Raises:
        ValueError: Shapes differ, relevance is not finite, or the mask is not binary.
    """
    pooled, inside = _map_and_mask(relevance, mask)
    positive = pooled.clamp(min=0)
    share = (positive * inside).sum(1) / positive.sum(1)
    return share.masked_fill(_without_score(pooled, inside), math.nan)


def rank_accuracy(relevance: Tensor, mask: Tensor) -> Tensor:
    """Relevance rank accuracy: how many of the K most relevant pixels lie inside, over K = the mask's area.

    Arras et al. 2022. Where pixels tie at the K-th place, the places left are shared evenly between them (the
    expected value of a random order), so the result is deterministic.

    Args:
        relevance: As in `mask_share`.
        mask: As in `mask_share`.

    Returns:
        ``(N,)``, float64, in [0, 1]; NaN as in `mask_share`.

    Raises:
        ValueError: As in `mask_share`.
    """
    pooled, inside = _map_and_mask(relevance, mask)
    return _inside_of_top(pooled, inside, inside.sum(1, keepdim=True))


def _inside_of_top(pooled: Tensor, inside: Tensor, k: Tensor) -> Tensor:
    """Share of the k most relevant entries that lie inside; those tied at the last place share what is left."""
    threshold = pooled.sort(1, descending=True).values.gather(1, (k - 1).clamp(min=0))
    above, tied = pooled > threshold, pooled == threshold
    places = k - above.sum(1, keepdim=True)
    hits = (above & inside).sum(1, keepdim=True) + places * (tied & inside).sum(1, keepdim=True) / tied.sum(
        1, keepdim=True
    )
    return (hits / k).double().squeeze(1).masked_fill(_without_score(pooled, inside), math.nan)


@checked
def top_k_inside(relevance: Tensor, mask: Tensor, k: int | float = 0.05) -> Tensor:
    """Top-k intersection: the share of the k most relevant pixels that lie inside (Theiner et al. 2022).

    Args:
        relevance: As in `mask_share`.
        mask: As in `mask_share`.
        k: How many pixels (an int), or which share of all of them (a float in (0, 1]). Ties as in `rank_accuracy`.

    Returns:
        ``(N,)``, float64, in [0, 1]; NaN as in `mask_share`.

    Raises:
        ValueError: As in `mask_share`; `k` is not among the map's pixels.
    """
    pooled, inside = _map_and_mask(relevance, mask)
    count = max(round(k * pooled.shape[1]), 1) if isinstance(k, float) and 0 < k <= 1 else k
    if not isinstance(count, int) or not 1 <= count <= pooled.shape[1]:
        raise ValueError(f"k is {told(k)}; give 1 to {pooled.shape[1]} pixels, or a share of them as a float in (0, 1]")
    return _inside_of_top(pooled, inside, torch.full_like(inside[:, :1], count, dtype=torch.long))


@checked
def boxes_to_masks(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes as masks, for the measures above.

    Args:
        boxes: ``(N, 4)`` or ``(N, B, 4)``, each left, top, right, bottom in pixels, right and bottom exclusive; a box
            of no area (padding) is empty.
        size: The map's height and width in pixels.

    Returns:
        Booleans ``(N, 1, H, W)``: where any of the boxes is.

    Raises:
        ValueError: The shape is another, or a box is turned inside out.
    """
    given = torch.as_tensor(boxes)
    if given.ndim not in (2, 3) or given.shape[-1] != 4:
        raise ValueError(f"boxes is {tuple(given.shape)}; give (N, 4) or (N, B, 4): left, top, right, bottom in pixels")
    left, top, right, bottom = given.reshape(len(given), -1, 4).unbind(2)
    if (right < left).any() or (bottom < top).any():
        raise ValueError(
            "a box ends before it begins; give left, top, right, bottom, with right > left and bottom > top"
        )
    rows = torch.arange(size[0], device=given.device)[None, None]
    columns = torch.arange(size[1], device=given.device)[None, None]
    across = (columns >= left[..., None]) & (columns < right[..., None])
    down = (rows >= top[..., None]) & (rows < bottom[..., None])
    return (down[..., :, None] & across[..., None, :]).any(1, keepdim=True)


@checked
def pointing_game(relevance: Tensor, mask: Tensor, tolerance: int = 0) -> Tensor:
    """Pointing game: does the most relevant pixel lie inside the mask? (Zhang et al. 2018).

    Args:
        relevance: As in `mask_share`.
        mask: As in `mask_share`.
        tolerance: A hit may lie this many pixels (Euclidean) outside. Zhang et al. take 15 on photographs of
            about 500 pixels; 0 is strict.

    Returns:
        ``(N,)``, float64: 1 hit, 0 miss, the share of hits where several pixels tie for the maximum; NaN as
        in `mask_share`.

    Raises:
        ValueError: As in `mask_share`; `tolerance` is negative.
    """
    if tolerance < 0:
        raise ValueError(f"tolerance is {tolerance} pixels; give 0 or more")
    pooled, inside = _map_and_mask(relevance, mask)
    nearby = inside
    if tolerance:
        reach = torch.arange(-tolerance, tolerance + 1, device=pooled.device)
        disc = (reach[:, None] ** 2 + reach**2 <= tolerance**2).double()[None, None]
        picture = inside.double().reshape(-1, 1, *relevance.shape[-2:])
        nearby = F.conv2d(picture, disc, padding=tolerance).flatten(1) > 0.5
    tops = pooled == pooled.amax(1, keepdim=True)
    hits = (tops & nearby).sum(1) / tops.sum(1).double()
    return hits.masked_fill(_without_score(pooled, inside), math.nan)


MEASURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mask_share": mask_share,
    "rank_accuracy": rank_accuracy,
    "pointing_game": pointing_game,
    "top_k_inside": top_k_inside,
}
"""The measures by name, each ``(relevance, mask) -> (N,)``."""
