"""Hypothesis strategies for other spellings of one computation: in place, into buffers, casts, exports, caches.

Each draws a pair ``(plain, spelled)`` or what makes the second from the first, for the law
`lrp_plugin.testing.assert_same_as`; each says what it excludes.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from lrp_plugin import rules as _rules  # noqa: F401  (fills the registry)
from lrp_plugin.registry import registry


class Pair(NamedTuple):
    """One computation in two spellings; both take the same tensors."""

    name: str
    plain: Callable[..., Tensor]
    spelled: Callable[..., Tensor]


# ---- in place ------------------------------------------------------------------------------------------------------
_VIEWS_AND_DRAWS = {"bernoulli", "cauchy", "detach", "rrelu", "squeeze", "t", "swapaxes", "swapdims", "transpose"}
_WITH_MORE: dict[str, tuple[Any, ...]] = {
    "add": (0.3,), "sub": (0.3,), "mul": (1.7,), "div": (0.6,), "pow": (1.5,), "clamp": (0.2, 0.7), "clamp_min": (0.3,),
    "clamp_max": (0.6,), "fmod": (0.4,), "remainder": (0.4,), "xlogy": (0.5,), "float_power": (1.5,),
    "renorm": (2, 0, 0.5), "cumsum": (1,), "cumprod": (1,), "tril": (), "triu": (),
}  # fmt: skip
_BY_FLAG: tuple[Callable[..., Tensor], ...] = (
    functional.relu, functional.relu6, functional.elu, functional.selu, functional.celu, functional.silu, functional.mish,
    functional.hardswish, functional.hardsigmoid, functional.leaky_relu, functional.hardtanh,
)  # fmt: skip


def _by_method(name: str, more: tuple[Any, ...]) -> Pair:
    def plain(t: Tensor) -> Tensor:
        return getattr(t, name)(*more)  # type: ignore[no-any-return]

    def spelled(t: Tensor) -> Tensor:
        held = t * 1.0
        getattr(held, f"{name}_")(*more)
        return held

    return Pair(f"{name}_", plain, spelled)


def _by_flag(function: Callable[..., Tensor]) -> Pair:
    return Pair(f"{function.__name__}(inplace)", function, lambda t: function(t * 1.0, inplace=True))


@cache
def in_place_pairs() -> dict[str, Pair]:
    """Every registered operation of one tensor that torch also has in place, by name; entries are between 0 and 1."""
    probe, found = torch.tensor([[0.2, 0.7, 0.4]], dtype=torch.float64), {}
    names = {str(operation) for operation in registry.defaults()} | set(_WITH_MORE)
    pairs = [_by_method(name, _WITH_MORE.get(name, ())) for name in sorted(names - _VIEWS_AND_DRAWS)]
    for pair in [*pairs, *(_by_flag(one) for one in _BY_FLAG)]:
        try:
            values = pair.plain(probe), pair.spelled(probe)
        except (AttributeError, RuntimeError, TypeError):
            continue  # torch has it not, or not in place, or it takes further tensors
        if all(isinstance(one, Tensor) and one.shape == probe.shape for one in values) and torch.allclose(*values):
            found[pair.name] = pair
    return found


def in_place_forms() -> st.SearchStrategy[Pair]:
    """An operation and its in-place form, asked for of a tensor that is nobody else's; entries between 0 and 1.

    Excludes: views (``squeeze_``), random draws, forms of several tensors (see `writes`), operations that are not finite
    between 0 and 1.
    """
    return st.sampled_from(sorted(in_place_pairs().values()))


# ---- writes into buffers -------------------------------------------------------------------------------------------
def _half(t: Tensor) -> int:
    return t.shape[1] // 2


def _every_other(t: Tensor) -> Tensor:
    return torch.arange(t.shape[1]).remainder(2).bool().expand(t.shape)


def _columns(t: Tensor) -> Tensor:
    return torch.arange(t.shape[1] - 1, -1, -1)


def _front(o: Tensor, t: Tensor) -> Tensor:
    return torch.cat([t[:, : _half(t)], o[:, _half(t) :]], 1)


def _mixed(o: Tensor, t: Tensor) -> Tensor:
    return torch.where(_every_other(t), t, o)


def _written(write: Callable[[Tensor, Tensor], Any]) -> Callable[[Tensor, Tensor], Tensor]:
    def spelled(o: Tensor, t: Tensor) -> Tensor:
        held = o.clone()
        write(held, t)
        return held

    return spelled


def _one_by_one(o: Tensor, t: Tensor) -> None:
    for column in range(o.shape[1]):
        o[:, column] = t[:, column] * (column + 1)


def _set(*index: Any) -> Callable[[Tensor, Tensor], None]:
    return lambda o, t: o.__setitem__(index, t[index])


def _iadd(o: Tensor, t: Tensor) -> None:
    o += t


def _iadd_front(o: Tensor, t: Tensor) -> None:
    o[:, : _half(t)] += t[:, : _half(t)]


WRITES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, Tensor], Any]]] = {
    "slice": (_front, lambda o, t: o.__setitem__((slice(None), slice(0, _half(t))), t[:, : _half(t)])),
    "narrow": (_front, lambda o, t: o.narrow(1, 0, _half(t)).copy_(t[:, : _half(t)])),
    "transposed": (_front, lambda o, t: o.transpose(0, 1)[: _half(t)].copy_(t.transpose(0, 1)[: _half(t)])),
    "mask": (_mixed, lambda o, t: o.__setitem__(_every_other(t), t[_every_other(t)])),
    "masked_scatter_": (_mixed, lambda o, t: o.masked_scatter_(_every_other(t), t[_every_other(t)])),
    "step": (_mixed, _set(slice(None), slice(1, None, 2))),
    "index_copy_": (lambda o, t: t.flip(1), lambda o, t: o.index_copy_(1, _columns(t), t)),
    "index_put_": (lambda o, t: t.flip(1), lambda o, t: o.__setitem__((slice(None), _columns(t)), t)),
    "scatter_": (lambda o, t: t.flip(1), lambda o, t: o.scatter_(1, _columns(t).expand(t.shape), t)),
    "copy_": (lambda o, t: t, lambda o, t: o.copy_(t)),
    "copy_ of one": (lambda o, t: t[:, :1].expand_as(t), lambda o, t: o.copy_(t[:, :1])),
    "columns": (lambda o, t: torch.stack([t[:, k] * (k + 1) for k in range(t.shape[1])], 1), _one_by_one),
    "fill of a part": (lambda o, t: torch.cat([torch.zeros_like(t[:, :1]), o[:, 1:] + t[:, 1:]], 1),
                       lambda o, t: (o.add_(t), o[:, :1].zero_())),
    "+=": (lambda o, t: o + t, _iadd),
    "+= of a part": (lambda o, t: torch.cat([o[:, : _half(t)] + t[:, : _half(t)], o[:, _half(t) :]], 1), _iadd_front),
    "sub_": (lambda o, t: o - 2 * t, lambda o, t: o.sub_(t, alpha=2)),
    "mul_": (lambda o, t: o * t, lambda o, t: o.mul_(t)),
    "scatter_add_": (lambda o, t: o + t.flip(1), lambda o, t: o.scatter_add_(1, _columns(t).expand(t.shape), t)),
    "index_add_": (lambda o, t: o + t.flip(1), lambda o, t: o.index_add_(1, _columns(t), t)),
    "lerp_": (lambda o, t: torch.lerp(o, t, 0.3), lambda o, t: o.lerp_(t, 0.3)),
}  # fmt: skip


def writes() -> st.SearchStrategy[Pair]:
    """A write of ``t`` into ``o``, both (N, C) with C of 2 or more, and the same put together without one.

    The spelled form writes into a copy of ``o``, which may be a signal or a constant. Excludes: memory whose entries
    overlap, places that depend on values, writes of another dtype, ``out=`` (refused by name).
    """
    made = [Pair(name, plain, _written(write)) for name, (plain, write) in WRITES.items()]
    return st.sampled_from(made)


DESTINATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "zeros": lambda other, t: torch.zeros_like(t),
    "constant": lambda other, t: torch.full_like(t, 0.5),
    "signal": lambda other, t: other,
}


def destinations() -> st.SearchStrategy[tuple[str, Callable[[Tensor, Tensor], Tensor]]]:
    """What a write goes into, by name, of another signal and of what is written: zeros, a constant, the other signal.

    Excludes: ``torch.empty``, whose entries are nobody's.
    """
    return st.sampled_from(sorted(DESTINATIONS.items(), key=lambda item: item[0]))


# ---- columns that are cast -----------------------------------------------------------------------------------------
CASTS: dict[str, Callable[[Tensor], Tensor]] = {
    "long": lambda c: c.long(), "int": lambda c: c.int(), "to": lambda c: c.to(torch.int64),
    "to named": lambda c: c.to(dtype=torch.int32).long(), "type": lambda c: c.type(torch.int64),
    "rounded": lambda c: (c + 0.2).round().long(), "of a product": lambda c: (c * 1.0).long(),
    "shifted": lambda c: (c.long() + 1) - 1, "clamped": lambda c: c.long().clamp(0, 10**6),
    "reshaped": lambda c: c.long().unsqueeze(-1).squeeze(-1), "by short": lambda c: c.short().long(),
    "floored": lambda c: torch.floor(c + 0.5).to(torch.long), "by tensor": lambda c: c.to(torch.zeros((), dtype=torch.long)),
}  # fmt: skip


def casts() -> st.SearchStrategy[tuple[str, Callable[[Tensor], Tensor]]]:
    """A way to make ids of a floating-point column that holds whole numbers, by name.

    Explained, such a column is the integer ids themselves (``spelled_inputs`` of the law). Excludes: buckets
    (``bucketize``), hashes and other computed ids, which no relevance leads through; ids beyond 2^15.
    """
    return st.sampled_from(sorted(CASTS.items(), key=lambda item: item[0]))


# ---- exported modules ----------------------------------------------------------------------------------------------
Export = Callable[[nn.Module, Any], Callable[..., Any]]


def _exported(**options: Any) -> Export:
    def export(module: nn.Module, example: Any) -> Callable[..., Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(module, (example,), **options)
            return program.module()

    return export


def _decomposed(module: nn.Module, example: Any) -> Callable[..., Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(module, (example,)).run_decompositions().module()


def _unflattened(module: nn.Module, example: Any) -> Callable[..., Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.unflatten(torch.export.export(module, (example,)))


EXPORTS: dict[str, Export] = {
    "exported": _exported(), "exported, strict": _exported(strict=True), "decomposed": _decomposed,
    "unflattened": _unflattened, "traced by fx": lambda module, example: torch.fx.symbolic_trace(module),
}  # fmt: skip


def exports() -> st.SearchStrategy[tuple[str, Export]]:
    """A way to a graph of ATen's or of Python's calls, by name and as a function of a module and of its input.

    Excludes: dynamic shapes, scripts (`torch.jit`, refused by name), quantized programs, programs that write buffers.
    """
    return st.sampled_from(sorted(EXPORTS.items(), key=lambda item: item[0]))


# ---- arguments that are written to ---------------------------------------------------------------------------------
class _Slotted:
    __slots__ = ("held",)

    def __init__(self, held: Tensor) -> None:
        self.held = held


def _listed(cache: Any, t: Tensor) -> Tensor:
    cache.append(t)
    return torch.cat(list(cache), 1)


def _keyed(cache: Any, t: Tensor) -> Tensor:
    cache["layers"][0]["past"] = torch.cat([cache["layers"][0]["past"], t], 1)
    return cache["layers"][0]["past"]  # type: ignore[no-any-return]


def _as_attribute(cache: Any, t: Tensor) -> Tensor:
    cache.held = torch.cat([cache.held, t], 1)
    return cache.held  # type: ignore[no-any-return]


def _room(past: Tensor) -> Tensor:
    return torch.cat([past, torch.full_like(past, 9.0)], 1)


def _in_buffer(cache: Any, t: Tensor) -> Tensor:
    filled = cache["filled"]
    cache["buffer"][:, filled : filled + t.shape[1]] = t
    cache["filled"] = filled + t.shape[1]
    return cache["buffer"][:, : cache["filled"]]  # type: ignore[no-any-return]


def _in_tensor(cache: Any, t: Tensor) -> Tensor:
    cache[:, -t.shape[1] :] = t
    return cache[:, : cache.shape[1]]  # type: ignore[no-any-return]


Make = Callable[[Tensor], Any]
Use = Callable[[Any, Tensor], Tensor]
CACHES: dict[str, tuple[Make, Use]] = {
    "list": (lambda past: [past], _listed),
    "deque": (lambda past: deque([past]), _listed),
    "nest": (lambda past: {"layers": [{"past": past}]}, _keyed),
    "object": (lambda past: SimpleNamespace(held=past), _as_attribute),
    "object with slots": (_Slotted, _as_attribute),
    "buffer": (lambda past: {"buffer": _room(past), "filled": past.shape[1]}, _in_buffer),
    "tensor": (_room, _in_tensor),
}


def caches() -> st.SearchStrategy[tuple[str, Make, Use]]:
    """An argument that the model writes to, as a language model's key and value cache, by name.

    With what makes it of the past (N, P, E), and what adds ``t`` (N, P, E) to it and returns the whole (N, 2 P, E), which is
    ``torch.cat([past, t], 1)``. Excludes: files, iterators, and objects of compiled extensions, which cannot be copied.
    """
    return st.sampled_from([(name, *pair) for name, pair in sorted(CACHES.items())])
