"""Read DICOM radiographs through pydicom (``pip install 'lrp-plugin[dicom]'``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lrp_plugin.images.errors import ImageError, refuse_bomb

Pixels = NDArray[np.float64]
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def read_dicom(path: str | Path) -> Tensor:
    """Read a single-frame grey DICOM image as a viewer would show it.

    In the standard's order: stored values, modality transform (rescale slope and intercept or its table),
    then the first VOI table or window, else the full range of the pixels that are no padding. MONOCHROME1
    (low values are white) is inverted, so that bone is bright in every picture.

    Args:
        path: the file.

    Returns:
        Float32 ``(1, H, W)`` in [0, 1].

    Raises:
        ImportError: pydicom is not installed.
        ImageError: not a DICOM file, no pixels, colour, several frames, too many pixels, NaN, or a compression
            without decoder.
    """
    try:
        import pydicom
        from pydicom.errors import InvalidDicomError
    except ImportError as error:
        raise ImportError("DICOM files need pydicom: pip install 'lrp-plugin[dicom]'") from error
    try:
        dataset = pydicom.dcmread(path)
        refuse_bomb(f"picture {path}", int(dataset.get("Columns") or 0), int(dataset.get("Rows") or 0))
        if not any(name in dataset for name in _PIXELS):
            kind = dataset.get("Modality", "unknown")
            raise ImageError(
                f"the DICOM file {path} holds no pixels (modality {kind}); give an image of the study, or fetch it again"
            )
        stored = dataset.pixel_array
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(f"picture {path} does not exist") from None
    except InvalidDicomError as error:
        raise ImageError(
            f"{path} is not a DICOM file: byte 128 begins no DICM; fetch it again, or call it by what it is, such as .png"
        ) from error
    except Exception as error:  # pydicom and its decoders raise what they like on damaged or unusual pixel data.
        raise ImageError(
            f"the pixels of {path} cannot be decoded ({error}). A compressed file may need "
            "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg; a cut-off one must be fetched again"
        ) from error
    kind = dataset.get("PhotometricInterpretation", "MONOCHROME2")
    if stored.ndim != 2 or kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise ImageError(
            f"{path} holds {kind} pixels of shape {stored.shape}; legal: one MONOCHROME1 or 2 frame. "
            "Save the frame that is meant, or a colour picture, as PNG"
        )
    if not np.isfinite(stored).all():
        raise ImageError(
            f"picture {path} holds {int((~np.isfinite(stored)).sum())} pixels that are NaN or infinite; "
            "legal are finite numbers"
        )
    grey = _present(dataset, stored)
    if kind == "MONOCHROME1":
        grey = 1.0 - grey
    return torch.from_numpy(grey.astype(np.float32))[None]


def _present(dataset: Any, stored: NDArray[Any]) -> Pixels:
    """Stored values to grey in [0, 1], before any inversion."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    values = np.asarray(apply_modality_lut(stored, dataset), dtype=np.float64)
    if dataset.get("VOILUTSequence"):
        depth = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        shown = apply_voi_lut(np.asarray(apply_modality_lut(stored, dataset)), dataset, prefer_lut=True)
        return np.clip(np.asarray(shown, dtype=np.float64) / (2.0**depth - 1.0), 0.0, 1.0)
    if dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None:
        centre, width = _first(dataset.WindowCenter), _first(dataset.WindowWidth)
        return _window(values, centre, width, str(dataset.get("VOILUTFunction", "LINEAR")))
    seen = values
    padding = dataset.get("PixelPaddingValue")
    if padding is not None and np.any(stored != padding):
        seen = values[stored != padding]
    low, high = float(seen.min()), float(seen.max())
    return np.clip((values - low) / max(high - low, 1e-12), 0.0, 1.0)


def _first(value: Any) -> float:
    """A window may be listed several times (soft tissue, bone); the first is the default presentation."""
    return float(value[0] if hasattr(value, "__len__") and not isinstance(value, str) else value)


def _window(values: Pixels, centre: float, width: float, function: str) -> Pixels:
    """DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3, output in [0, 1]."""
    if function == "SIGMOID":
        return np.asarray(1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - centre) / width, -700.0, 700.0))))
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / max(width, 1e-12) + 0.5, 0.0, 1.0)
    return np.clip((values - (centre - 0.5)) / max(width - 1.0, 1e-12) + 0.5, 0.0, 1.0)
