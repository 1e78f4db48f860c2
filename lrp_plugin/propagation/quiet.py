"""A model in evaluation mode, its compiled parts run eagerly, for the length of a call; given back as it was."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from lrp_plugin.errors import warn

_LOCK = threading.Lock()
_EAGER: list[Any] = [0, None]
_HELD: weakref.WeakKeyDictionary[nn.Module, tuple[int, list[nn.Module]]] = weakref.WeakKeyDictionary()


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Every module's ``training`` flag off, restored afterwards; warns where one was on.

    Several threads may explain one model: the last to leave restores the flags.
    """
    if not isinstance(model, nn.Module):
        yield
        return
    with _LOCK:
        holders, training = _HELD.get(model, (0, []))
        found = [module for module in model.modules() if module.training]
        for module in found:
            module.training = False
        _HELD[model] = (holders + 1, training + found)
    try:
        # A wrapper made a moment ago (Captum's, for language models) around a model in evaluation mode tells nothing.
        wrapper = found == [model] and next(model.children(), None) is not None
        exported = "eval" in vars(model)  # by torch.export: it refuses eval(), its operations say whether they train
        if found and not wrapper and not exported:
            warn(
                f"{type(model).__name__} is in training mode: it is explained as in evaluation mode (BatchNorm uses its "
                "running statistics, dropout drops nothing) and left as it was; call model.eval() first"
            )
        yield
    finally:
        with _LOCK:
            holders, training = _HELD[model]
            if holders > 1:
                _HELD[model] = (holders - 1, training)
            else:
                del _HELD[model]
                for module in training:
                    module.training = True


@contextmanager
def uncompiled() -> Iterator[None]:
    """Parts of the model that ``torch.compile`` wraps run as they were written, where interception sees them.

    torch's stance is one for all threads: the first to enter sets it, the last to leave gives it back. Without it Dynamo
    compiles the interception itself, for minutes.
    """
    if "torch._dynamo" not in sys.modules:  # nothing can have been compiled; importing it takes seconds
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
