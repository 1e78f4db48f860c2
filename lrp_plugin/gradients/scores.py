"""What is explained: the model as a map from one input to scores ``(N, K)``, and the classes chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lrp_plugin.errors import told
from lrp_plugin.kinds import checked, checked_model

Target = int | Sequence[int] | Tensor | Any | None
"""A class index (int, NumPy int, 0-d tensor), one per example (list, array, 1-d tensor), or None (argmax)."""

OUTPUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "logit": lambda logits: logits,
    # One column is a binary model's logit, for which a softmax would be the constant 1.
    "probability": lambda logits: logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1),
    "log_probability": lambda logits: (
        nn.functional.logsigmoid(logits) if logits.shape[1] == 1 else logits.log_softmax(1)
    ),
}
"""What may be explained, as a function of the logits ``(N, K)``."""


@checked
def resolve_target(target: Target, scores: Tensor) -> Tensor:
    """Turn any accepted target into one class index per example.

    Args:
        target: An int, NumPy int or 0-d tensor for the whole batch; a list, array or 1-d tensor of N for one
            class an example; None for each example's highest score.
        scores: The model's output, ``(N, K)``.

    Returns:
        Class indices ``(N,)``, int64, on the device of `scores`.

    Raises:
        ValueError: `target` is not whole numbers, has another length than N, or leaves 0..K-1.
    """
    count, classes = scores.shape
    if target is None:
        return scores.argmax(1)
    try:
        indices = torch.as_tensor(target, device=scores.device)
    except (RuntimeError, TypeError, ValueError):
        raise ValueError(f"target={told(target)}; give whole numbers from 0 to {classes - 1}, or None") from None
    if indices.dtype.is_floating_point or indices.dtype.is_complex or indices.dtype == torch.bool:
        raise ValueError(f"target has dtype {indices.dtype}; give whole numbers from 0 to {classes - 1}")
    if indices.ndim > 1 or (indices.ndim == 1 and len(indices) != count):
        raise ValueError(
            f"target has shape {tuple(indices.shape)} for a batch of {count}; give one class index for "
            f"the whole batch, {count} of them, or None for the highest score"
        )
    indices = indices.long().expand(count)
    wrong = indices[(indices < 0) | (indices >= classes)]
    if len(wrong):
        raise ValueError(f"target {int(wrong[0])} is outside 0..{classes - 1}, the model's {classes} outputs")
    return indices


class ScoreModel(nn.Module):
    """The model as a map from one input tensor to what is explained, always ``(N, K)``.

    Args:
        model: The classifier, held and never changed.
        forward: What to call with the inputs instead of the model.
        output: A key of `OUTPUTS`.

    Raises:
        TypeError: `model` is not a module.
        ValueError: `output` is unknown.
    """

    def __init__(self, model: nn.Module, forward: Callable[[Tensor], Any] | None, output: str) -> None:
        super().__init__()
        if not isinstance(checked_model(model), nn.Module):
            raise TypeError(
                f"model is a {type(model).__name__}, not a torch.nn.Module; pass the module, and what to "
                "call as forward=lambda images: ..."
            )
        if output not in OUTPUTS:
            raise ValueError(f"output {told(output)} is unknown; choose from {', '.join(OUTPUTS)}")
        self.model = model
        self.call = model if forward is None else forward
        self.output = output
        # The wrapper has no mode of its own; a new module's flag would make any model look in training.
        self.training = False

    def forward(self, inputs: Tensor) -> Tensor:
        """Scores ``(N, K)`` of inputs ``(N, ...)``.

        Raises:
            ValueError: The model returned neither ``(N,)`` nor ``(N, K)``, nor a mapping with such a logit.
        """
        logits = self.call(inputs)
        if isinstance(logits, Mapping):
            key = next((key for key in ("logit", "logits") if key in logits), None)
            if key is None:
                raise ValueError(
                    f"the model returned a mapping with {', '.join(map(str, logits))}, without 'logit' or "
                    "'logits'; give forward=lambda images: model(images)[KEY]"
                )
            logits = logits[key]
        if not isinstance(logits, Tensor) or logits.ndim not in (1, 2) or len(logits) != len(inputs):
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"the model returned {shape} for {len(inputs)} examples; only a tensor (N,) or (N, K) can be "
                "explained: give forward=lambda images: ... that returns one"
            )
        return OUTPUTS[self.output](logits[:, None] if logits.ndim == 1 else logits)
