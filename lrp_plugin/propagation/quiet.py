"""A model in evaluation mode, its compiled parts run eagerly, for the length of a call; given back as it was."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from lrp_plugin.errors import warn
from lrp_plugin.torch_private import dynamo_is_loaded

_LOCK = threading.Lock()
_EAGER: list[Any] = [0, None]
# How many passes hold a module that was in training mode.
_HELD: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Every module's ``training`` flag off, restored afterwards; warns where one was on.

    A callable's modules are found as they run, in this thread, however it holds them. Several threads may explain one
    model: the last to leave restores the flags.
    """
    with ExitStack() as stack:
        if isinstance(model, nn.Module):
            _quiet(model, stack)
        else:
            stack.callback(_as_they_run(stack).remove)
        yield


def _as_they_run(stack: ExitStack) -> Any:
    thread, seen = threading.get_ident(), set[int]()

    def enter(module: nn.Module, _: Any) -> None:
        if threading.get_ident() == thread and id(module) not in seen:
            seen.update(map(id, module.modules()))
            _quiet(module, stack)

    return nn.modules.module.register_module_forward_pre_hook(enter)


def _quiet(model: nn.Module, stack: ExitStack) -> None:
    with _LOCK:
        found = [module for module in model.modules() if module.training]
        held = found if not _HELD else [module for module in model.modules() if module.training or module in _HELD]
        for module in held:
            module.training = False
            _HELD[module] = _HELD.get(module, 0) + 1
    stack.callback(_restore, held)
    # A wrapper made a moment ago (Captum's, for language models) around a model in evaluation mode tells nothing.
    wrapper = found == [model] and next(model.children(), None) is not None
    exported = "eval" in vars(model)  # by torch.export: it refuses eval(), its operations say whether they train
    if found and not wrapper and not exported:
        warn(
            f"{type(model).__name__} is in training mode: it is explained as in evaluation mode (BatchNorm uses its "
            "running statistics, dropout drops nothing) and left as it was; call model.eval() first"
        )


def _restore(held: list[nn.Module]) -> None:
    with _LOCK:
        for module in held:
            left = _HELD.pop(module) - 1
            if left:
                _HELD[module] = left
            else:
                module.training = True


@contextmanager
def uncompiled() -> Iterator[None]:
    """Parts of the model that ``torch.compile`` wraps run as they were written, where interception sees them.

    torch's stance is one for all threads: the first to enter sets it, the last to leave gives it back. Without it Dynamo
    compiles the interception itself, for minutes.
    """
    if not dynamo_is_loaded():  # nothing can have been compiled; importing it takes seconds
        yield
        return
    with _LOCK:
        if _EAGER[0] == 0:
            _EAGER[1] = torch.compiler.set_stance("force_eager")
            _EAGER[1].__enter__()
        _EAGER[0] += 1
    try:
        yield
    finally:
        with _LOCK:
            _EAGER[0] -= 1
            if _EAGER[0] == 0:
                _EAGER[1].__exit__(None, None, None)
