"""Which module is running: read from the Python stack, so that no hook is ever put on the user's model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from torch import nn

_CALL = nn.Module._call_impl.__code__


class ModulePaths:
    """Names the innermost running module of a model (``"layer1.0.conv1"``)."""

    def __init__(self, model: Callable[..., Any] | nn.Module) -> None:
        self._model = model
        self._names: dict[int, str] | None = None

    def current(self) -> tuple[str, nn.Module | None]:
        """The path of the running module and the module itself; ``("", None)`` outside any."""
        frame = sys._getframe(1)
        while frame is not None:
            if frame.f_code is _CALL:
                module = frame.f_locals["self"]
                return self.name(module), module
            frame = frame.f_back  # type: ignore[assignment]
        return "", None

    def name(self, module: nn.Module) -> str:
        """The module's path in the model, or its class name where the model does not hold it."""
        if self._names is None:
            owner = self._model if isinstance(self._model, nn.Module) else getattr(self._model, "__self__", None)
            held = owner.named_modules() if isinstance(owner, nn.Module) else ()
            self._names = {id(inner): path for path, inner in held}
        return self._names.get(id(module), type(module).__name__)
