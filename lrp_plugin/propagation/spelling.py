"""One name for every spelling of an operation: ``torch.relu_``, ``F.relu(inplace=True)``, ``Tensor.relu`` are ``relu``."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn import functional
from torch.overrides import handle_torch_function, has_torch_function

from lrp_plugin.propagation import losses, overloads
from lrp_plugin.propagation.written_out import WRITTEN_OUT
from lrp_plugin.torch_private import described, is_overload, overridable

_DUNDER = {
    "truediv": "div", "rtruediv": "rdiv", "imatmul": "matmul", "rmatmul": "rmatmul", "invert": "bitwise_not",
    "itruediv": "div", "ifloordiv": "floor_divide", "floordiv": "floor_divide", "ipow": "pow",
}  # fmt: skip
_ALIASES = {
    "subtract": "sub", "multiply": "mul", "divide": "div", "true_divide": "div", "clip": "clamp", "absolute": "abs",
    "concat": "cat", "concatenate": "cat", "negative": "neg", "expit": "sigmoid", "swapaxes": "transpose",
    "swapdims": "transpose", "moveaxis": "movedim", "adaptive_avg_pool2d_": "adaptive_avg_pool2d",
    "conv_tbc": "conv_tbc", "view_as": "view", "reshape_as": "view", "reshape": "view", "arctan": "atan",
    "special_softmax": "softmax", "special_log_softmax": "log_softmax", "special_expit": "sigmoid", "special_erf": "erf",
    "special_exp2": "exp2", "special_expm1": "expm1", "special_log1p": "log1p", "special_logsumexp": "logsumexp",
    "linalg_vector_norm": "vector_norm", "linalg_norm": "norm", "linalg_matmul": "matmul", "fix": "trunc",
    "arctanh": "atanh", "arcsinh": "asinh", "arcsin": "asin", "arccos": "acos", "special_erfc": "erfc",
    "special_erfinv": "erfinv", "special_sinc": "sinc", "special_round": "round", "numpy_T": "T", "matrix_H": "mH",
    "row_stack": "vstack", "logsigmoid": "log_sigmoid", **overloads.NAMES,
}  # fmt: skip
_COPIES = ("index_copy", "foreach_copy")  # operations of their own; view_copy and its like are views that are copied
_TABLE_FIRST = ("embedding", "embedding_bag")  # torch's own functions of these names take their arguments in this order
_VIEWS = ("T", "mT", "H", "mH", "real", "imag", "data")  # properties that are tensors
_REFLECTED = ("add", "mul")
_IN_PLACE = ("add", "sub", "mul", "and", "or", "xor", "mod")


# Methods that look at a tensor, or hang something on it, and compute nothing.
_OBSERVERS = (
    "register_hook", "register_post_accumulate_grad_hook", "retain_grad", "backward", "dim_order", "is_shared",
    "share_memory_", "storage", "storage_type", "__len__", "__repr__", "__format__", "__deepcopy__", "__reduce_ex__",
    "__array__", "__dlpack__", "__dlpack_device__",
)  # fmt: skip


class Spelling(NamedTuple):
    """What a torch callable is.

    Args:
        operation: The operation's name.
        function: A callable with the same arguments that writes to none of them, or the callable itself.
        writes: The callable writes to its first argument.
        clones: ``function`` still writes: it is to be given a clone.
        part: It is a part of one operation with those before and after it (an attention's packed projections).
        observes: It looks at a tensor and computes nothing: ``register_hook``, ``grad_fn``.
    """

    operation: str | type
    function: Callable[..., Any]
    writes: bool
    clones: bool
    part: bool = False
    observes: bool = False


def _plain_name(name: str) -> tuple[str, bool]:
    """The operation's name and whether the spelling writes in place."""
    if name == "__setitem__":
        return "setitem", True
    if name.startswith("__") and name.endswith("__"):
        core = name[2:-2]
        writes = core in _DUNDER and core.startswith("i") and core != "invert"
        if core in _DUNDER:
            return _DUNDER[core], writes
        if core.startswith("i") and core[1:] in _IN_PLACE:
            return core[1:], True
        if core.startswith("r") and core[1:] in _REFLECTED:
            return core[1:], False
        return core, False
    writes = name.endswith("_") and not name.endswith("__")
    core = name.strip("_")
    core = _ALIASES.get(core, core)
    if core.endswith("_copy") and core not in _COPIES:
        core = core.removesuffix("_copy").strip("_")
    return _ALIASES.get(core, core), writes


def _out_of_place(operation: str, name: str, function: Callable[..., Any]) -> Callable[..., Any] | None:
    if name.startswith("__i") and hasattr(torch.Tensor, f"__{name[3:]}"):
        return getattr(torch.Tensor, f"__{name[3:]}")  # type: ignore[no-any-return]
    if operation in ("resize", "resize_as"):  # Tensor.resize is another operation
        return None
    stem = name.rstrip("_")
    for owner in (torch.Tensor, torch, functional):
        found = getattr(owner, stem, None)
        if found is not None and found is not function and callable(found):
            return found  # type: ignore[no-any-return]
    return None


def _linear(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """functional.linear of an input laid out row by row.

    Of a transposed one (nn.MultiheadAttention's) torch makes a product for each row, unless the weight requires a
    gradient, and here it never does: a ViT-B/16's projection of (197, 2, 768) takes 33 ms that way, so 10.
    """
    return functional.linear(input.contiguous() if input.dim() > 2 else input, weight, bias)


def _part(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> Any:
    if has_torch_function((input, weight)):
        return handle_torch_function(_part, (input, weight), input, weight, bias)
    return _linear(input, weight, bias)


def _projections(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None = None
) -> list[torch.Tensor]:
    """nn.MultiheadAttention's packed projections, one by one.

    Torch makes one product of self-attention's three and takes it apart again, which costs a copy of all, three tensors of
    zeros and two sums in the backward pass (ViT-B/16: 2 to 5 % of it), and a product with zeros where the rule sends
    nothing to query and key.
    """
    if q is k and k is v:
        q = k = v = q.contiguous()  # once, not for each
    biases = (None, None, None) if b is None else b.chunk(3)
    return [_part(*each) for each in zip((q, k, v), w.chunk(3), biases)]


@functools.cache
def spelling_of(function: Callable[..., Any]) -> Spelling:
    """The operation a torch callable performs (cached)."""
    if function is _part:
        return Spelling("linear", _linear, False, False, part=True)
    name = getattr(function, "__name__", type(function).__name__)
    owner = getattr(function, "__self__", None)
    if name == "__get__" and owner is not None:  # a property: x.T, x.shape
        operation = getattr(owner, "__name__", "get")
        return Spelling(operation, function, False, False, observes=operation not in _VIEWS)
    if name == "__set__" and owner is not None:
        return Spelling(f"set_{getattr(owner, '__name__', 'property')}", function, False, False)
    operation, writes = _plain_name(overloads.aten_name(function) if is_overload(function) else name)
    if function is torch.ops.aten.copy.default:  # it has no derivative
        return Spelling("copy", torch.Tensor.copy_, False, True)
    if operation in _TABLE_FIRST and function is not getattr(functional, operation):
        operation += "_of_table"
    if name in _OBSERVERS:
        return Spelling(operation, function, False, False, observes=True)
    if not writes:
        return Spelling(operation, _linear if function is functional.linear else function, False, False)
    twin = overloads.out_of_place(function) if is_overload(function) else _out_of_place(operation, name, function)
    return Spelling(operation, twin or function, True, twin is None)


@functools.cache
def writing(spelling: Spelling) -> Spelling:
    """The same operation asked for in place."""
    return spelling._replace(writes=True)


def on_a_clone(function: Any) -> Any:
    """An operation that only exists in place (item assignment), as one that returns what it would have written."""

    def written(target: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        fresh = target.clone()
        function(fresh, *args, **kwargs)
        return fresh

    return written


def unwritten(function: Callable[..., Any], spelling: Spelling) -> Callable[..., Any]:
    """The callable as one that writes to none of its arguments."""
    if not spelling.writes:
        return function
    return on_a_clone(spelling.function) if spelling.clones else spelling.function  # type: ignore[no-any-return]


# What a call asks of a tensor without looking at its entries. (A property's getter is a callable of its own.)
DESCRIPTIONS = frozenset(
    [torch.Tensor.dim, torch.Tensor.size, torch.Tensor.numel, torch.Tensor.is_floating_point] + list(described)
)


@functools.cache
def opened(function: Callable[..., Any]) -> Callable[..., Any] | None:
    """A composite function of torch as one whose inner operations are seen by a function mode: None for any other.

    Some are written out here; of those that are Python it is a copy.
    Under a mode ``has_torch_function`` is always true, and the function's body would hand itself to the mode for
    ever; in the copy those names answer "never".
    """
    operation = str(spelling_of(function).operation)
    written = overloads.refused(operation)
    for table in (WRITTEN_OUT, overloads.WRITTEN_OUT, losses.WRITTEN_OUT):
        written = written or table.get(operation)
    if written is not None:
        return written
    plain = inspect.unwrap(function)
    if not isinstance(plain, types.FunctionType) or not (plain.__module__ or "").startswith("torch"):
        return None

    def never(*_: Any) -> bool:
        return False

    names = overridable(plain.__code__)
    inside = {**plain.__globals__, **dict.fromkeys(names, never), "_in_projection_packed": _projections}
    copied = types.FunctionType(plain.__code__, inside, plain.__name__, plain.__defaults__, plain.__closure__)
    copied.__kwdefaults__ = plain.__kwdefaults__
    return copied
