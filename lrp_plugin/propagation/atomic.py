"""Modules whose call is one operation: a rule registered for their type carries relevance, their inside is not seen."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from lrp_plugin.algebra.nests import map_tensors
from lrp_plugin.propagation.mode import Propagation
from lrp_plugin.propagation.spelling import Spelling
from lrp_plugin.propagation.writes import value_of
from lrp_plugin.registry import Operation, Registry, qualified_name


@contextmanager
def atomic_modules(mode: Propagation, model: Any, registry: Registry) -> Iterator[None]:
    """While it is open, the model's modules of registered types are single operations of this thread's pass.

    The module runs twice: once for PyTorch's own call, which cannot be left out by a hook, and once as
    ``call.function`` of its rule. The hooks are removed whatever happens.
    """
    owner = model if isinstance(model, nn.Module) else getattr(model, "__self__", None)
    wanted = set(registry.atomic_types())
    hooks = []
    try:
        if wanted and isinstance(owner, nn.Module):
            for module in owner.modules():
                kind = _registered_kind(module, wanted)
                if kind is not None:
                    hooks.extend(_AtomicCall(mode, kind).attach(module))
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _registered_kind(module: nn.Module, wanted: set[Operation]) -> Operation | None:
    """The most special of the module's classes that is registered, by type or by qualified name."""
    for kind in type(module).__mro__:
        for name in (kind, qualified_name(kind)):
            if name in wanted:
                return name
    return None


class _AtomicCall:
    """The hooks of one module.

    Another thread that runs the module while these hooks are removed calls them once more, and then without keyword
    arguments: torch looks a hook up first and asks what it takes afterwards. Both signatures are therefore served.
    """

    def __init__(self, mode: Propagation, kind: Operation) -> None:
        self.mode = mode
        self.kind = kind
        self.thread = threading.get_ident()
        self.given: list[tuple[Any, Any]] = []

    def attach(self, module: nn.Module) -> list[Any]:
        before = module.register_forward_pre_hook(self.enter, with_kwargs=True)
        return [before, module.register_forward_hook(self.leave, with_kwargs=True, always_call=True)]

    def _foreign(self) -> bool:
        return threading.get_ident() != self.thread

    def enter(self, module: nn.Module, args: Any, kwargs: Any = None) -> Any:
        if self._foreign() or self.mode.suspended:
            return None
        self.given.append((args, kwargs))
        self.mode.suspended = True
        return map_tensors(args, self._plain), map_tensors(kwargs, self._plain)

    def _plain(self, tensor: Tensor) -> Tensor:
        return value_of(self.mode, tensor).detach() if self.mode.depends_on_input(tensor) else tensor

    def leave(self, module: nn.Module, args: Any, *kwargs_and_output: Any) -> Any:
        if self._foreign() or not self.given:
            return None
        output = kwargs_and_output[-1]
        args, kwargs = self.given.pop()
        try:
            spelling = Spelling(self.kind, module.forward, False, False)
            return None if output is None else self.mode.carry_out(spelling, args, kwargs)
        finally:
            self.mode.suspended = False
