"""Which module is running, read from the Python stack, and which modules a callable holds: no hook is ever put on them."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lrp_plugin.torch_private import module_call

_DEPTH = 6  # of containers and functions within one another
_CONTAINERS = (list, tuple, set, frozenset)


def modules_behind(model: Any) -> list[nn.Module]:
    """The modules that a model or callable holds: itself, or those in its closure, arguments, attributes and globals."""
    if isinstance(model, nn.Module):
        return [model]
    found = list(_held(model, set(), _DEPTH))
    inner = {id(module) for root in found for module in root.modules() if module is not root}
    return [module for module in found if id(module) not in inner]


def _held(value: Any, seen: set[int], depth: int) -> Iterator[nn.Module]:
    if id(value) in seen or depth < 0:
        return
    seen.add(id(value))
    if isinstance(value, nn.Module):
        yield value
        return
    for inner in _inside(value):
        yield from _held(inner, seen, depth - 1)


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, types.FunctionType):
        named = {name for code in _codes(value.__code__) for name in code.co_names}
        return [
            *(cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)),
            *(value.__globals__[name] for name in named if name in value.__globals__),
            *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values(),
        ]  # fmt: skip
    if isinstance(value, types.MethodType):
        return value.__self__, value.__func__
    if isinstance(value, functools.partial):
        return value.func, value.args, value.keywords
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, _CONTAINERS):
        return value
    if isinstance(value, (type, types.ModuleType, types.BuiltinFunctionType, str, bytes, Tensor)):
        return ()
    held = getattr(value, "__dict__", None) or {}
    return [*held.values(), type(value).__call__] if callable(value) else list(held.values())


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


class ModulePaths:
    """Names the innermost running module of a model (``"layer1.0.conv1"``).

    Modules that the model does not hold (a callable's, an attribute's that is no submodule) are named from the outermost
    of them that is running.
    """

    def __init__(self, model: Callable[..., Any] | nn.Module) -> None:
        self._model = model
        self._names: dict[int, tuple[str, nn.Module]] | None = None  # the module too: its id must stay its own
        self._roots: list[nn.Module] | None = None
        self._state: tuple[int, set[int]] | None = None

    def current(self) -> tuple[str, nn.Module | None]:
        """The path of the running module and the module itself; ``("", None)`` outside any."""
        module = next(_running(), None)
        return ("", None) if module is None else (self.name(module), module)

    def name(self, module: nn.Module) -> str:
        """The module's path in the model, or in the outermost running module that holds it."""
        if id(module) not in self._named():
            self._discover()
        found = self._named().get(id(module))
        return type(module).__name__ if found is None else found[0]

    def state(self) -> set[int]:
        """The storages of the model's parameters and buffers, of what is running now too."""
        if not isinstance(self._model, nn.Module):
            self._discover()
        roots = self._known_roots()
        if self._state is None or self._state[0] != len(roots):
            held = [t for root in roots for t in (*root.parameters(), *root.buffers()) if t.layout is torch.strided]
            self._state = len(roots), {t.untyped_storage()._cdata for t in held}
        return self._state[1]

    def _known_roots(self) -> list[nn.Module]:
        if self._roots is None:
            self._roots = modules_behind(self._model)
        return self._roots

    def _discover(self) -> None:
        """Looks at what is running for modules that are not known yet, the outermost first."""
        for module in reversed(list(_running())):
            if id(module) not in self._named():
                self._known_roots().append(module)
                self._add(module)

    def _named(self) -> dict[int, tuple[str, nn.Module]]:
        if self._names is None:
            self._names = {}
            for root in self._known_roots():
                self._add(root)
        return self._names

    def _add(self, root: nn.Module) -> None:
        for path, inner in root.named_modules():
            self._named().setdefault(id(inner), (path, inner))


def _running() -> Iterator[nn.Module]:
    """The modules whose call is under way in this thread, the innermost first."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code is module_call:
            yield frame.f_locals["self"]
        frame = frame.f_back  # type: ignore[assignment]
