"""What a model refuses, in words that help: which layer, what it takes, what it was given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

TAKES = (
    (nn.modules.conv._ConvNd, "in_channels", 1, "channels"),
    (nn.modules.batchnorm._BatchNorm, "num_features", 1, "channels"),
    (nn.Linear, "in_features", -1, "features"),
    (nn.modules.rnn.RNNBase, "input_size", -1, "features"),
)
"""Layers that say how long one dimension of their input is: the class, where, which dimension, its entries."""


def refuse_empty_weights(model: Any) -> None:
    """Raises ``ValueError`` for a network on torch's device ``meta``, whose weights have no values."""
    if isinstance(model, nn.Module):
        empty = next((name for name, one in model.named_parameters() if one.is_meta), None)
        if empty is not None:
            raise ValueError(
                f"{type(model).__name__}'s weights have no values ({empty} is on the device meta); build it on the cpu"
            )


def refuse_nan(model: Any, scores: Tensor) -> None:
    """Raises ``ValueError`` for answers that are NaN, of which nothing can be explained; names a cause where it is seen."""
    wrong = int(scores.isnan().sum())
    if not wrong:
        return
    parameters = model.named_parameters() if isinstance(model, nn.Module) else ()
    holding = next((name for name, one in parameters if one.isnan().any()), None)
    cause = (
        "no weight is NaN, so look at its forward, and at the input's range"
        if holding is None
        else f"its weight {holding} holds NaN, so load other weights"
    )
    raise ValueError(f"the model answers NaN in {wrong} of {scores.numel()} outputs for this input; {cause}")


def refused(model: Any, call: Callable[[], Any], inputs: Any, error: Exception, remedy: str) -> ValueError:
    """The error to raise where a model cannot take an input.

    Args:
        model: Any callable.
        call: The call that failed, to be made again.
        inputs: What it was given.
        error: What it raised.
        remedy: What to give instead.
    """
    name = getattr(model, "name_in_reports", None) or getattr(model, "__name__", None) or type(model).__name__
    first = inputs["input_ids"] if isinstance(inputs, Mapping) else inputs
    given = f"{str(first.dtype).removeprefix('torch.')} of shape {tuple(first.shape)}"
    reason, better = _layers_words(model, call)
    if isinstance(error, TypeError) and "argument" in str(error):
        better = "give a function, or a module around it, that takes the input alone"
    reason = reason or (str(error).strip().split("\n") or [""])[0] or type(error).__name__
    return ValueError(f"{name} cannot take an input, {given}: {reason.rstrip('.!')}; {better or remedy}")


def _layers_words(model: Any, call: Callable[[], Any]) -> tuple[str, str]:
    """What the layer that was entered last takes, where that is what it was not given, and a remedy of its own."""
    if not isinstance(model, nn.Module):
        return "", ""
    entered: list[tuple[str, nn.Module, Any]] = []

    def enter(name: str) -> Callable[[nn.Module, Any], None]:
        return lambda module, given: entered.append((name, module, given[0] if given else None))

    handles = [module.register_forward_pre_hook(enter(name)) for name, module in model.named_modules()]
    try:
        call()
    except Exception:
        pass  # the one that is being told of
    finally:
        for handle in handles:
            handle.remove()
    name, module, given = entered[-1] if entered else ("", model, None)
    called = f"its {type(module).__name__}{f' {name!r}' if name else ''}"
    return _taken(called, module, given) if isinstance(given, Tensor) else ("", "")


def _taken(called: str, module: nn.Module, given: Tensor) -> tuple[str, str]:
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        if given.is_floating_point():
            return f"{called} takes whole numbers (ids)", "give ids, as explain_text does"
        most = int(given.max()) if given.numel() else 0
        if most >= module.num_embeddings:
            return f"{called} knows the ids 0 to {module.num_embeddings - 1} and was given {most}", ""
    if isinstance(module, nn.modules.conv._ConvNd) and given.dim() != len(module.kernel_size) + 2:
        several = {3: "explain_signal", 5: "explain_volume"}.get(len(module.kernel_size) + 2)
        better = f"{several} gives as many" if several else ""
        return f"{called} takes {len(module.kernel_size) + 2} dimensions and was given {given.dim()}", better
    for kind, attribute, place, entries in TAKES:
        if isinstance(module, kind) and given.dim() > 1 and getattr(module, attribute) != given.shape[place]:
            return f"{called} takes {getattr(module, attribute)} {entries} and was given {given.shape[place]}", ""
    # torchvision's, timm's and Hugging Face's vision transformers.
    sides: Any = getattr(module, "image_size", None) or getattr(module, "img_size", None)
    if sides is not None and given.dim() == 4 and getattr(module, "strict_img_size", True):
        sides = (sides, sides) if isinstance(sides, int) else tuple(sides)
        if sides != tuple(given.shape[2:]):
            needed, has = (" x ".join(map(str, one)) for one in (sides, given.shape[2:]))
            return f"{called} takes pictures of {needed} pixels and was given {has}", ""
    kernel: Any = getattr(module, "kernel_size", None)
    if kernel is not None:
        sides = given.shape[2:]
        kernel = kernel if isinstance(kernel, tuple) else (kernel,) * len(sides)
        if any(side < needed for side, needed in zip(sides, kernel)):
            needed, has = (" x ".join(map(str, one)) for one in (kernel, sides))
            return f"{called} looks at {needed} entries together and was given {has}", ""
    own = next((one.dtype for one in module.parameters(recurse=False)), given.dtype)
    if given.dtype != own:
        said = [str(dtype).removeprefix("torch.") for dtype in (own, given.dtype)]
        return f"{called} takes {said[0]} and was given {said[1]}", "give a network of one type, such as model.float()"
    return "", ""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it is for want of memory, which is no fault of the input's kind."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
