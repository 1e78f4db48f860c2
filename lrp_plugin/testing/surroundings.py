"""Hypothesis strategies for what stands around a model and must not change its explanation.

Hooks, wrappers, autocast regions, in-place spellings, writes and masks: each says what it excludes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import Function

Handle = Any
Attach = Callable[[nn.Module], Handle]


class _Identity(Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return tensor

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient


class _Copy(Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return tensor.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient


def _looking(look: Callable[[Tensor], Any]) -> Attach:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            look(output)

    return lambda module: module.register_forward_hook(hook)


def _replacing(replace: Callable[[Tensor], Tensor]) -> Attach:
    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        return replace(output) if isinstance(output, Tensor) else None

    return lambda module: module.register_forward_hook(hook)


def _sevenfold(_: nn.Module, sent: Any, __: Any) -> tuple[Tensor | None, ...]:
    return tuple(None if gradient is None else 7 * gradient for gradient in sent)


HOOKS: dict[str, Attach] = {
    "full backward": lambda module: module.register_full_backward_hook(lambda *_: None),
    "full backward, changing": lambda module: module.register_full_backward_hook(_sevenfold),
    "full backward, before": lambda module: module.register_full_backward_pre_hook(lambda *_: None),
    "on the tensor": _looking(lambda tensor: tensor.register_hook(lambda g: None)),
    "on the tensor, changing": _looking(lambda tensor: tensor.register_hook(lambda g: 3 * g)),
    "retaining": _looking(lambda tensor: tensor.retain_grad()),
    "reading": _looking(lambda t: (repr(t), f"{t.mean():.2f}", float(t.detach().sum()), t.tolist(), len(t), t.grad_fn)),
    "an identity": _replacing(_Identity.apply),  # type: ignore[arg-type]
    "a copy": _replacing(_Copy.apply),  # type: ignore[arg-type]
}


def hooks() -> st.SearchStrategy[tuple[str, Attach]]:
    """A kind of hook, by name and as a function that puts it on a module and returns its handle.

    Excludes: hooks that return other values than they were given, and the deprecated ``register_backward_hook``, of
    which torch itself warns.
    """
    return st.sampled_from(sorted(HOOKS.items(), key=lambda item: item[0]))


class _Holder:
    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.several = {"a": [model]}

    def predict(self, *given: Any) -> Any:
        return self.model(*given)

    def __call__(self, *given: Any) -> Any:
        return self.several["a"][0](*given)


def _closed_over(model: nn.Module) -> Callable[..., Any]:
    held = [model]

    def run(*given: Any) -> Any:
        return held[0](*given)

    return run


WRAPPERS: dict[str, Callable[[nn.Module], Callable[..., Any]]] = {
    "lambda": lambda model: lambda *given: model(*given),
    "partial": lambda model: functools.partial(lambda held, *given: held(*given), model),
    "partial of the module": functools.partial,
    "bound method": lambda model: _Holder(model).predict,
    "callable object": _Holder,
    "closure over a list": _closed_over,
}


def wrappers() -> st.SearchStrategy[tuple[str, Callable[[nn.Module], Callable[..., Any]]]]:
    """A way to hand a module over as a callable, by name and as a function of the module.

    Excludes: modules made anew in every call.
    """
    return st.sampled_from(sorted(WRAPPERS.items(), key=lambda item: item[0]))


def in_bfloat16(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function inside an autocast region of the CPU, whose end stands between it and whoever reads its value."""

    def run(*given: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return function(*given)

    return run


def _in_slices(t: Tensor) -> Tensor:
    out, half = torch.zeros_like(t), t.shape[1] // 2
    out[:, :half] = t[:, :half]
    out[:, half:] = t[:, half:]
    return out


def _by_mask(t: Tensor) -> Tensor:
    out, chosen = torch.zeros_like(t), t.detach() > 0
    out[chosen] = t[chosen]
    out[~chosen] = t[~chosen]
    return out


def _added(t: Tensor) -> Tensor:
    out = torch.zeros_like(t)
    out += t
    return out


def _sorted(t: Tensor) -> Tensor:
    values, places = t.sort(1)
    return torch.zeros_like(t).scatter(1, places, values)


def _best(t: Tensor) -> Tensor:
    values, places = t.topk(t.shape[1], 1)
    return torch.zeros_like(t).scatter_(1, places, values)


def _places(t: Tensor) -> Tensor:
    return torch.arange(t.shape[1]).view(1, -1, *[1] * (t.dim() - 2)).expand(t.shape)


IDENTITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "slices": _in_slices,
    "mask": _by_mask,
    "copy_": lambda t: torch.empty_like(t).copy_(t),
    "scatter_": lambda t: torch.zeros_like(t).scatter_(1, _places(t), t),
    "scatter_add_": lambda t: torch.zeros_like(t).scatter_add_(1, _places(t), t),
    "index_add_": lambda t: torch.zeros_like(t).index_add_(1, torch.arange(t.shape[1]), t),
    "index_copy_": lambda t: torch.zeros_like(t).index_copy_(1, torch.arange(t.shape[1]), t),
    "masked_scatter_": lambda t: torch.zeros_like(t).masked_scatter_(torch.ones_like(t, dtype=torch.bool), t),
    "+=": _added,
    "sort": _sorted,
    "topk": _best,
    "max": lambda t: torch.stack([t, t], -1).max(-1).values,
    "amin": lambda t: t.unsqueeze(-1).amin(-1),
    "median": lambda t: t.unsqueeze(-1).median(-1).values,
    "kthvalue": lambda t: t.unsqueeze(-1).kthvalue(1, -1).values,
}


def identities() -> st.SearchStrategy[tuple[str, Callable[[Tensor], Tensor]]]:
    """A way to put a tensor (N, C, ...) together again from its entries, by name: writes, selections, sums by index.

    Excludes: writes whose places depend on the input's values beyond their sign.
    """
    return st.sampled_from(sorted(IDENTITIES.items(), key=lambda item: item[0]))


MASKS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "masked_fill": lambda t, mask: t.masked_fill(mask, -torch.inf),
    "masked_fill_": lambda t, mask: t.clone().masked_fill_(mask, -torch.inf),
    "where": lambda t, mask: torch.where(mask, torch.tensor(-torch.inf, dtype=t.dtype), t),
    "added": lambda t, mask: t + torch.zeros_like(t).masked_fill(mask, -torch.inf),
}


def masks() -> st.SearchStrategy[tuple[str, Callable[[Tensor, Tensor], Tensor]]]:
    """A way to set entries to minus infinity, by name: a function of the tensor and of a boolean mask of its shape.

    Excludes: masks of NaN, and rows in which nothing is left.
    """
    return st.sampled_from(sorted(MASKS.items(), key=lambda item: item[0]))
