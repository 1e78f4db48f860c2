"""What a model says of a target, example by example, for as many perturbed inputs as memory allows at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lrp_plugin.attribution.arguments import Arguments
from lrp_plugin.attribution.inputs import OutputChoice, chosen_output
from lrp_plugin.attribution.targets import pick_target
from lrp_plugin.errors import told
from lrp_plugin.kinds import checked, checked_model
from lrp_plugin.propagation.quiet import evaluating

OUTPUTS = ("auto", "logit", "probability", "log_probability")


class Scorer:
    """The explained number of each example, ``(N,)``, in evaluation mode and without a graph.

    Args:
        model: Maps inputs ``(M, ...)`` to ``(M, K)``, or to ``(M,)`` or ``(M, 1)`` where there is one output.
        output: ``"logit"`` takes what the model returns; ``"probability"`` and ``"log_probability"`` its softmax over K
            classes (the sigmoid of one output). ``"auto"``: the probability of two classes or more, else what it returns.
        batch_size: How many inputs are in one forward pass at most: the bound on memory.
        arguments: Further positional arguments; tensors of N examples go with them.
        choose: Which of what the model returns is meant, as ``output`` of `UnifiedLRP`: a key, a place, a function.

    Raises:
        ValueError: `output` or `batch_size` is not legal.
    """

    @checked
    def __init__(
        self, model: Callable[..., Any], *, output: str = "auto", batch_size: int = 64, arguments: Sequence[Any] = (),
        choose: OutputChoice = None,
    ) -> None:  # fmt: skip
        if output not in OUTPUTS:
            raise ValueError(f"output={told(output)}; legal are {', '.join(OUTPUTS)}")
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size={told(batch_size)}; give a positive integer")
        self.model, self.output, self.batch_size = checked_model(model), output, batch_size
        self.arguments, self.choose = tuple(arguments), choose

    def __call__(self, inputs: Tensor, target: Any, rows: Tensor | None = None) -> Tensor:
        """The target's score of each input.

        Args:
            inputs: ``(M, ...)``. target: An int, or ``(N,)``, or a function of the output ``(M, K) -> (M,)``.
            rows: ``(M,)``, the example each input was made of, for per-example targets and arguments; None: 0, 1, ...

        Returns:
            ``(M,)``, float64, detached.
        """
        rows = torch.arange(len(inputs), device=inputs.device) if rows is None else rows
        with torch.inference_mode(False), torch.no_grad(), evaluating(self.model):
            parts = [
                self._score(part, of_rows(target, where), where)
                for part, where in zip(inputs.split(self.batch_size), rows.split(self.batch_size))
            ]
        return torch.cat(parts) if parts else inputs.new_zeros(0, dtype=torch.float64)

    def _score(self, inputs: Tensor, target: Any, rows: Tensor) -> Tensor:
        further = tuple(of_rows(argument, rows) for argument in self.arguments)
        found = Arguments(positional=further).call(self.model, (inputs,))
        if self.choose is not None:
            found = chosen_output(found, self.choose)
        elif not isinstance(found, Tensor):
            found = _logits(found)
        found = found.double()
        if callable(target):
            returned = target(found)
            try:
                return torch.as_tensor(returned, device=found.device).reshape(len(inputs))
            except (RuntimeError, TypeError, ValueError):
                raise ValueError(
                    f"the target function returned {told(returned)} for {len(inputs)} inputs; legal is a number for each, (N,)"
                ) from None
        one = found.ndim < 2 or found.shape[1] == 1
        if found.ndim > 2:
            raise ValueError(
                f"the model returned {tuple(found.shape)}; give choose=, a function of it that returns (N, K)"
            )
        found = found.reshape(len(inputs), 1) if one else found
        chosen = 0 if one else target
        if self.output == "logit" or (one and self.output == "auto"):
            return pick_target(found, chosen, (inputs,))
        log = nn.functional.logsigmoid(found) if one else found.log_softmax(1)
        picked = pick_target(log, chosen, (inputs,))
        return picked if self.output == "log_probability" else picked.exp()


def of_rows(value: Any, rows: Tensor) -> Any:
    """A target or argument of each of these rows; what has no rows passes unchanged."""
    if not isinstance(value, Tensor) or not value.ndim:
        return value
    if len(rows) and len(value) <= (last := int(rows.max())):
        raise ValueError(
            f"a target or argument of shape {tuple(value.shape)} has {len(value)} rows where example {last} is scored: give "
            "one row for each example"
        )
    return value[rows.to(value.device)]


def _logits(returned: Any) -> Tensor:
    for name in ("logits", "logit", "y_prob", "out"):
        found = returned.get(name) if isinstance(returned, dict) else getattr(returned, name, None)
        if isinstance(found, Tensor):
            return found
    raise ValueError(
        f"the model returned a {type(returned).__name__}; give choose=, a key, a place or a function of it"
    )
