"""The first operation of a forward pass that makes NaN of numbers: looked for only where the output is NaN."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lrp_plugin.algebra.nests import tensors_in
from lrp_plugin.propagation.paths import ModulePaths
from lrp_plugin.propagation.spelling import spelling_of


class FirstNan(TorchFunctionMode):
    """Watches a plain forward pass.

    Attributes:
        found: The operation and the running module, for a message; empty where every operation got its NaN handed in.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.found = ""
        self._paths = ModulePaths(model)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = tensors_in(kwargs or {}, tensors_in(args, []))
        known = self.found or not given or any(map(_holds_nan, given))  # before the call: it may write to them
        value = func(*args, **(kwargs or {}))
        operation = str(spelling_of(func).operation)
        if (
            not known
            and not operation.startswith(("empty", "new_empty"))
            and any(map(_holds_nan, tensors_in(value, [])))
        ):
            path = self._paths.current()[0]
            self.found = f"operation {operation!r} in " + (f"module {path!r}" if path else "the model's own forward")
        return value


def _holds_nan(tensor: Tensor) -> bool:
    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.is_meta or tensor.layout is not torch.strided:
        return False
    return bool(torch.isnan(tensor.detach()).any())
