"""``explain_image``: a picture in, what the network's answer rests on out."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from lrp_plugin.composites import Composite
from lrp_plugin.explain import figures
from lrp_plugin.explain.core import (
    device_of,
    dtype_of,
    forward,
    guesses,
    kind_of_probabilities,
    named,
    noted,
    relevance_of,
    scores_of,
    whole_call,
)
from lrp_plugin.explain.explanation import Explanation
from lrp_plugin.explain.names import Labels, names_of, read_labels, target_number
from lrp_plugin.explain.preprocessing import Preprocessing, preprocessing_of
from lrp_plugin.explain.refusals import refuse_nan
from lrp_plugin.explain.scenes import explain_box, explain_region
from lrp_plugin.images import left_out, pixels_of, read_image
from lrp_plugin.kinds import checked

Preprocess = Preprocessing | Callable[[Any], Tensor] | None


@whole_call
@checked
def explain_image(
    model: nn.Module | Callable[..., Any],
    picture: Any,
    target: int | str | Tensor | None = None,
    method: str | Composite = "auto",
    *,
    preprocess: Preprocess = None,
    labels: Labels = None,
    bias: str = "absorb",
    output: Any = None,
    probabilities: str | None = None,
    topk: int = 5,
    ledger: bool = True,
    name: str | None = None,
    **options: Any,
) -> Explanation:
    """Explains one answer of an image network: a classifier, a segmentation, or one of torchvision's detectors.

    Args:
        model: The network, on any device; it is not changed. Its weights are used as they are.
        picture: A file (PNG, JPEG, TIFF, DICOM, ...), a PIL image, or an array ``(H, W)``, ``(H, W, 1 or 3)`` or
            ``(1 or 3, H, W)``, of bytes or in [0, 1]; all these are preprocessed. A floating-point *tensor*
            ``(C, H, W)`` or ``(1, C, H, W)`` is the network's own input and is taken as it is.
        target: The class to explain, by number or by name; the best one if None. Of a detector: the box, by rank.
        method: ``"auto"`` (by the network's family: `lrp_plugin.explain.FAMILIES`), a rule (``"epsilon"``, ...), a
            ready composite (``"epsilon_plus_flat"``, ...), a gradient method (``"saliency"``, ...), or a `Composite`.
        preprocess: A `Preprocessing`, or a function from a PIL image to the network's input, such as a torchvision
            weight's ``transforms()``. None: the model's own where its package says it, else ImageNet's, with a note.
        labels, bias, output, probabilities, topk, ledger, name: See `lrp_plugin.explain`, as for further options.

    Returns:
        The explanation; ``relevance`` has the shape ``(C, H, W)`` of the network's input, in logits.

    Raises:
        TypeError: `picture` is of another kind.
        ValueError: The model cannot be called, the file is no picture, the target does not exist, or a name is unknown.

    Examples::

        >>> found = explain_image(model, "cat.jpg", "tabby")
        >>> found.save("cat.png")
    """
    chosen = preprocess if preprocess is not None else preprocessing_of(model)
    inputs, shown, notes = _prepared(picture, chosen, given=preprocess is not None)
    facts: dict[str, Any] = {
        "input": inputs.cpu(), "model": name or named(model), "notes": (*notes, *_unseen(picture)),
        "view": {"picture": shown, "preprocessing": getattr(chosen, "source", "as given")},
    }  # fmt: skip
    request = {
        "method": method, "bias": bias, "bounds": getattr(chosen, "bounds", None), "ledger": ledger, **options,
    }  # fmt: skip
    batch = inputs.to(device_of(model), dtype_of(model))[None]
    found = _answered(model, batch, target, read_labels(labels), output, (probabilities, topk), request, facts)
    return noted(found, bias)


def _answered(
    model: Any, inputs: Tensor, target: Any, labels: list[str] | None, output: Any, shown: tuple[str | None, int],
    request: dict[str, Any], facts: dict[str, Any],
) -> Explanation:  # fmt: skip
    """A box, a region or a class, as the model's answer ``(1, ...)`` has it."""
    answer = forward(model, inputs, remedy="give preprocess= with the size and channels that it was made for")
    if output is None and isinstance(answer, (list, tuple)) and answer and isinstance(answer[0], dict):
        return explain_box(model, inputs, answer[0], target, labels, request, facts)
    scores = scores_of(answer, output)
    names = labels or names_of(model, scores.shape[1] if scores.dim() > 1 else 1)
    if scores.dim() == 4:
        return explain_region(model, inputs, scores[0], target, names, output, request, facts)
    return explain_class(model, inputs, scores, target, names, output, *shown, request, kind="image",
                         draw=figures.draw_image, facts=facts)  # fmt: skip


def explain_class(
    model: Any, inputs: Tensor, scores: Tensor, target: Any, names: list[str] | None, output: Any,
    probabilities: str | None, topk: int, request: dict[str, Any], *, kind: str, draw: Any, facts: dict[str, Any],
) -> Explanation:  # fmt: skip
    """One class of a classifier's ``(1, K)``, ``(1, 1)`` or ``(1,)`` scores."""
    flat = scores.reshape(-1) if scores.dim() <= 2 and scores.shape[:1] == (1,) else None
    if flat is None or not len(flat):
        raise ValueError(
            f"the model returned scores of shape {tuple(scores.shape)} for one example; a classifier's (1, K) are "
            "explained here: name the right tensor by output="
        )
    if names is not None and len(names) != len(flat):
        raise ValueError(f"{len(names)} names for {len(flat)} outputs; give one for each by labels=")
    refuse_nan(model, flat)
    how = probabilities or kind_of_probabilities(model, flat)
    top, shares = guesses(flat, names, how, topk)
    number = target_number(target, names, len(flat))
    number = top[0].target if number is None else number
    wanted = None if scores.dim() == 1 else number
    found, account, method, unit = relevance_of(model, inputs, wanted, output=output, **request)
    return Explanation(
        kind, found[0].detach().cpu(), method=method, target=number, target_name=names[number] if names else None,
        logit=float(flat[number]), probability=None if shares is None else shares[number], top=tuple(top),
        ledger=account, unit=unit, draw=draw, **facts,
    )  # fmt: skip


def _prepared(picture: Any, chosen: Any, given: bool) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """The network's input without a batch, what is shown of it, and notes."""
    notes: tuple[str, ...] = ()
    if isinstance(picture, Tensor) and picture.is_floating_point() and not (given and callable(chosen)):
        inputs = picture[0] if picture.dim() == 4 and len(picture) == 1 else picture
        if inputs.dim() != 3:
            raise ValueError(f"picture has shape {tuple(picture.shape)}; give one, (C, H, W) or (1, C, H, W)")
        own = isinstance(chosen, Preprocessing) and inputs.shape[0] == chosen.channels
        shown = chosen.undone(inputs.detach().cpu().float()) if own else inputs.detach().cpu()
        return inputs.detach(), _showable(shown), notes
    if isinstance(chosen, Preprocessing):
        if "assumed" in chosen.source:
            notes = (
                f"preprocessing: {chosen.source}; give preprocess= where the network was trained on something else",
            )
        shown = chosen.picture(_pixels(picture))
        return chosen.inputs(shown), shown, notes
    inputs = chosen(_pil(picture))
    if not isinstance(inputs, Tensor):
        raise TypeError(f"preprocess returned a {type(inputs).__name__}; it should return a tensor (C, H, W)")
    inputs = inputs[0] if inputs.dim() == 4 else inputs
    mean, std = getattr(chosen, "mean", None), getattr(chosen, "std", None)
    if mean is None or std is None:
        return inputs, _showable(inputs.detach().float()), notes
    return inputs, Preprocessing(1, mean, std, len(inputs)).undone(inputs.float()).clamp(0, 1), notes


def _unseen(picture: Any) -> tuple[str, ...]:
    return left_out(picture) if isinstance(picture, (str, os.PathLike, Image.Image)) else ()


def _showable(inputs: Tensor) -> Tensor:
    """Something that can be drawn of an input with any number of channels."""
    return inputs if inputs.shape[0] in (1, 3) else inputs.mean(0, keepdim=True)


def _pixels(picture: Any) -> Tensor:
    """Any kind of picture as ``(1 or 3, H, W)`` in [0, 1]."""
    if isinstance(picture, (str, os.PathLike)):
        return read_image(Path(picture), stretch=True)
    if not isinstance(picture, (np.ndarray, Tensor, Image.Image)):
        raise TypeError(f"picture is a {type(picture).__name__}; give a file, a PIL image, an array or a tensor")
    if isinstance(picture, Image.Image):
        return pixels_of(picture, stretch=True)
    array = np.asarray(picture.detach().cpu() if isinstance(picture, Tensor) else picture)
    if array.ndim == 2:
        array = array[None]
    if array.ndim == 3 and array.shape[0] not in (1, 3) and array.shape[2] in (1, 3, 4):
        array = np.moveaxis(array, 2, 0)[:3]
    if array.ndim != 3 or array.shape[0] not in (1, 3):
        raise ValueError(f"picture has shape {array.shape}; give (H, W), (H, W, 3) or (3, H, W)")
    values = torch.from_numpy(np.ascontiguousarray(array.astype(np.float32)))
    if not bool(torch.isfinite(values).all()):
        raise ValueError("picture holds NaN or infinite values")
    if array.dtype == np.uint8:
        return values / 255
    if bool(values.min() < 0) or bool(values.max() > 1):  # counts of a detector: its extremes become black and white
        return (values - values.min()) / (values.max() - values.min()).clamp(min=1e-12)
    return values


def _pil(picture: Any) -> Any:
    if isinstance(picture, Image.Image):
        return ImageOps.exif_transpose(picture)  # as its file is read

    pixels = _pixels(picture)
    array = (pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).convert("RGB")
