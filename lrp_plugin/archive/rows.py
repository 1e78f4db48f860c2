"""The rows of an archive: one for each item, target and method; a map as float16 times a scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from lrp_plugin.archive.settings import Maps

#: The ledger's totals, kept where they were asked for.
LEDGER = ("bias", "constant", "stabilizer", "no_receiver", "other", "distributed", "gap")

SCHEMA = pa.schema(
    [
        pa.field("key", pa.uint64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("checksum", pa.string()),
        pa.field("label", pa.string()),
        pa.field("method", pa.string()),
        pa.field("target", pa.int32()),
        pa.field("prediction", pa.int32()),
        pa.field("logit", pa.float64()),
        pa.field("prediction_logit", pa.float64()),
        pa.field("relevance", pa.float64()),
        pa.field("share", pa.float64()),
        pa.field("mask_area", pa.float64()),
        *(pa.field(name, pa.float64()) for name in LEDGER),
        pa.field("map", pa.binary()),
        pa.field("shape", pa.list_(pa.int32())),
        pa.field("scale", pa.float32()),
        pa.field("seconds", pa.float32()),
        pa.field("error", pa.string()),
    ]
)
"""key, id, source, checksum (SHA-256 of the source's bytes), label: the item. logit: the explained output; prediction,
prediction_logit: the greatest. relevance: the map's sum before it was pooled, so logit - relevance was absorbed. share: of
positive relevance inside the mask (`lrp_plugin.evidence.mask_share`); mask_area: what chance scores. map: float16, little
endian; its values are float16 * scale. seconds: this item's part of its batch. error: null where all went well."""

#: What differs between two runs of the same thing.
MEASURED = ("seconds",)


def pooled(relevance: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (..., H, W) on a coarser grid: each pixel's relevance is shared by area, so the sum is kept."""
    for axis, wanted in zip((-2, -1), size):
        given = relevance.shape[axis]
        if given != wanted:
            # Exact where the grids nest, too: the overlaps are then 0 and 1.
            edges = torch.arange(wanted + 1, dtype=torch.float64) * (given / wanted)
            low, high = edges[:-1, None], edges[1:, None]
            pixel = torch.arange(given, dtype=torch.float64)
            overlap = (torch.minimum(high, pixel + 1) - torch.maximum(low, pixel)).clamp(min=0)
            moved = relevance.movedim(axis, -1) @ overlap.T.to(relevance)
            relevance = moved.movedim(-1, axis)
    return relevance


def kept(relevance: Tensor, maps: Maps) -> np.ndarray:
    """Maps (N, C, H, W) as they are stored, before rounding: float32 on the CPU, channels summed, pooled."""
    relevance = relevance.detach().double()
    if maps.channels == "sum":
        relevance = relevance.sum(1)
    if maps.size is not None:
        relevance = pooled(relevance, maps.size)
    return relevance.float().cpu().numpy()


def packed(values: np.ndarray) -> dict[str, Any]:
    """One map's columns: its bytes, shape and scale."""
    scale = np.float32(np.abs(values).max(initial=0.0)) or np.float32(1.0)
    return {
        "map": (values / scale).astype("<f2").tobytes(),
        "shape": list(values.shape),
        "scale": float(scale),
    }


def unpacked(row: Mapping[str, Any]) -> np.ndarray:
    """The map of a row that has one, as float32.

    Raises:
        ValueError: The bytes do not fill the shape.
    """
    values = np.frombuffer(row["map"], "<f2")
    shape = tuple(row["shape"])
    if values.size != np.prod(shape, dtype=int):
        raise ValueError(f"the map of {row['id']!r} has {values.size} values for shape {shape}")
    return values.reshape(shape).astype(np.float32) * np.float32(row["scale"])
