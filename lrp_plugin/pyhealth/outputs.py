"""What PyHealth's models take and return: keywords, logits ``(N, K)``, and the number that a target names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lrp_plugin.attribution.inputs import OutputChoice, chosen_output
from lrp_plugin.attribution.targets import read_target


def logits_of(output: Any, choose: OutputChoice = None) -> Tensor:
    """The logits ``(N, K)`` in what a model returned, or in what ``choose`` takes of it; K is 1 for one number per example.

    Of a mapping ``logit`` or ``logits``, else ``y_prob``'s logarithm (which differs from the logit by a constant of the
    example), else ``y_pred``; ValueError where there is none.
    """
    if choose is not None:
        output = chosen_output(output, choose)
    if isinstance(output, Mapping):
        found = next((output[key] for key in ("logit", "logits") if key in output), None)
        if found is None and "y_prob" in output:
            found = (output["y_prob"] + 1e-10).log()
        output = output.get("y_pred", ", ".join(map(str, output))) if found is None else found
    if not isinstance(output, Tensor) or output.ndim not in (1, 2):
        shape = tuple(output.shape) if isinstance(output, Tensor) else repr(output)
        raise ValueError(
            f"the model returned {shape}; legal are a tensor (N,) or (N, K), or a mapping with one of them as 'logit', "
            "'y_prob' or 'y_pred'"
        )
    return output if output.ndim == 2 else output[:, None]


def number_of(target: Any, logits: Tensor) -> Tensor:
    """The logit ``(N,)`` that a target names; None is each example's highest, and of one logit there is nothing to choose.

    Raises:
        TargetError: A ValueError, for a target that is no whole number, of another length than N, or outside -K..K-1.
    """
    if logits.shape[1] == 1:
        return logits[:, 0]
    chosen = logits.detach().argmax(1) if target is None else target
    return read_target(chosen, logits.shape).select(logits)


def device_of(model: Any) -> torch.device | None:
    """Where a model's parameters are; None where it has none."""
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return None if parameter is None else parameter.device


def takes_keyword(forward: Callable[..., Any], name: str) -> bool:
    """Whether ``forward`` can be called with that keyword."""
    parameters = inspect.signature(forward).parameters
    return name in parameters or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())


def check_keywords(forward: Callable[..., Any], names: Collection[str]) -> None:
    """Raises ValueError, with the legal ones, for names that are no parameters of the model's forward."""
    unknown = [name for name in names if not takes_keyword(forward, name)]
    if unknown:
        legal = ", ".join(repr(name) for name in inspect.signature(forward).parameters)
        raise ValueError(f"the model's forward has no parameter {', '.join(map(repr, unknown))}; legal are {legal}")
