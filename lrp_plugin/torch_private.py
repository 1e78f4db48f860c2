"""Every private or fragile name of torch and captum, each behind one name here, with a fallback or a clear error.

Nothing else in the package reads such a name: when torch renames one, this file says what is lost, and how. The names are
looked up once, when the package is imported; a test takes each away in turn.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import CodeType
from typing import Any, NamedTuple, TypeGuard

import torch
from captum._utils import common as captum_common
from captum._utils import gradient as captum_gradient
from torch import Tensor, nn
from torch._functorch import apis as functorch_apis
from torch._functorch import vmap as functorch_vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _python_dispatch as dispatch
from torch.utils import _pytree as pytree

from lrp_plugin.errors import UnsupportedOperationError


def _named(owner: Any, *path: str) -> Any:
    """What stands at a path of attributes, or None where this release has no such name."""
    for name in path:
        owner = getattr(owner, name, None)
    return owner


def _unknown(*_: Any) -> bool:
    return True


def missing(name: str, what: str) -> Callable[..., Any]:
    """A stand-in that says which name this release lacks, and what does not work without it."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise UnsupportedOperationError(
            f"{name} is not in torch {torch.__version__}: {what}; install a release made for it, or an older torch"
        )

    return refuse


_dispatch_modes: Callable[[], int] | None = _named(torch, "_C", "_len_torch_dispatch_stack")
_interpreter: Callable[[], Any] | None = _named(torch, "_C", "_functorch", "peek_interpreter_stack")
_wrapped: Callable[[Tensor], bool] | None = _named(torch, "_C", "_functorch", "is_functorch_wrapped_tensor")
_disable_modes: Callable[[], AbstractContextManager[Any]] | None = _named(dispatch, "_disable_current_modes")
_mode_stack: Callable[[], list[Any]] | None = _named(dispatch, "_get_current_dispatch_mode_stack")
_kinds = (_named(torch, "_ops", "OpOverload"), _named(torch, "_ops", "OpOverloadPacket"))
_overloads: tuple[type, ...] = tuple(kind for kind in _kinds if kind is not None)

saved_hooks: Callable[[bool], Any] = _named(torch, "_C", "_autograd", "_top_saved_tensors_default_hooks") or _unknown
"""None where nobody has set hooks on what autograd saves (a checkpoint does); where torch cannot tell (2.6), not."""
keeps_graph: Callable[[], bool] = _named(torch, "_C", "_autograd", "_get_current_graph_task_keep_graph") or _unknown
"""Whether this backward pass is to be followed by another through the same graph; where torch cannot tell: yes."""
_copy_each: Callable[..., Any] | None = _named(torch, "_foreach_copy_")
undynamoed: Callable[[Any], Any] = _named(torch, "_disable_dynamo") or torch.compiler.disable
"""A decorator: torch.compile leaves the function alone."""
module_call: CodeType = (_named(nn.Module, "_call_impl") or nn.Module.__call__).__code__
"""The code of a module's call, whose frame tells that the module is running."""
function_modes: Callable[[], list[Any]] = _named(torch, "overrides", "_get_current_function_mode_stack") or missing(
    "torch.overrides._get_current_function_mode_stack",
    "layers' and units' relevance and vmap need the modes that are on",
)
"""The function modes that are on in this thread, the innermost last."""
described: tuple[Any, ...] = tuple(
    vars(kind)[name].__get__
    for kind in [_named(torch, "_C", "TensorBase") or Tensor]
    for name in ("shape", "ndim", "dtype", "device")
    if name in vars(kind)
)
"""The getters of a tensor's properties that do not look at its entries; without them these are calls like others."""


class VmapParts(NamedTuple):
    """What ``torch.vmap`` is made of.

    Args:
        home: The namespace in which torch looks the implementation up, as ``"vmap_impl"``.
        batched: From in_dims, arguments and the function to the size, the dimensions, the flat arguments and their form.
        placed: From out_dims and a form to the dimensions of the flat outputs.
    """

    home: dict[str, Any]
    batched: Callable[..., Any]
    placed: Callable[..., Any]


def _vmap_parts() -> VmapParts | None:
    home = _named(functorch_apis, "vmap_impl") and vars(functorch_apis)
    parts = home, _named(functorch_vmap, "_process_batched_inputs"), _named(pytree, "_broadcast_to_and_flatten")
    return None if any(part is None for part in parts) else VmapParts(*parts)


flattened, unflattened = pytree.tree_flatten, pytree.tree_unflatten
vmap_parts = _vmap_parts()
"""None where this torch makes vmap of something else: then no signal may enter one."""


def traced() -> bool:
    """Whether a tracer looks on (a dispatch mode); where torch cannot tell, only what says so in public."""
    return (_dispatch_modes() > 0 and _tracers()) if _dispatch_modes is not None else torch.compiler.is_compiling()


def observed() -> bool:
    """Whether a tracer or a function transform (vmap) looks on: it wants one plain formula. Where torch cannot tell: yes."""
    if _dispatch_modes is None or _interpreter is None:
        return True
    return (_dispatch_modes() > 0 and _tracers()) or _interpreter() is not None


def _tracers() -> bool:
    """Whether a dispatch mode is on that may be a tracer: one that only counts says so, by ``only_counts = True``."""
    return _mode_stack is None or not all(getattr(mode, "only_counts", False) for mode in _mode_stack())


def plain(tensor: Tensor) -> Tensor:
    """The tensor's entries without a graph and without its class, which autograd's Functions would take for a view."""
    if type(tensor) is Tensor:
        return tensor.detach()
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.detach()


def inside_transform(tensor: Tensor) -> bool:
    """Whether the tensor is a function transform's (vmap), which has no memory of its own; where torch cannot tell: no."""
    return _wrapped is not None and _wrapped(tensor)


@contextmanager
def untraced() -> Iterator[None]:
    """What is computed inside is not recorded by a tracer; where torch cannot say so, it is."""
    if _disable_modes is None:
        yield
        return
    with _disable_modes():
        yield


def copy_each(targets: list[Tensor], sources: list[Tensor]) -> None:
    """Copies each source into its target, in few kernels; where torch cannot, in one for each."""
    if _copy_each is not None:
        _copy_each(targets, sources)
        return
    for target, source in zip(targets, sources):
        target.copy_(source)


def dynamo_is_loaded() -> bool:
    """Whether anything can have been compiled: importing Dynamo takes seconds."""
    return "torch._dynamo" in sys.modules


def refuse_vmap(tensors: list[Tensor]) -> None:
    """Raises inside a vmap that this torch makes of something else: signals are not known there, and would be lost."""
    if vmap_parts is None and any(map(inside_transform, tensors)):
        missing("torch._functorch.apis.vmap_impl", "a signal cannot enter torch.vmap")()


# ---- one kernel from a formula -------------------------------------------------------------------------------------
def has_triton() -> bool:
    """Whether Inductor can make kernels for a GPU here; where torch cannot tell: no."""
    known: Callable[[], bool] | None = _named(importlib.import_module("torch.utils._triton"), "has_triton")
    return known is not None and known()


def compiled_graph(function: Callable[..., Any], examples: list[Tensor]) -> Callable[..., Any]:
    """A function of tensors of one length, compiled by Inductor for any length, without Dynamo: it has no guards to look at.

    Raises:
        Exception: Whatever a tracer or a compiler raises, and where this torch has no ``torch._inductor.compile``.
    """
    inductor = importlib.import_module("torch._inductor")
    with torch.no_grad():
        graph = make_fx(function, tracing_mode="symbolic")(*examples)
        given = [node.meta["val"] for node in graph.graph.nodes if node.op == "placeholder"]
        return inductor.compile(graph, given)  # type: ignore[no-any-return]


# ---- ATen's overloads ------------------------------------------------------------------------------------------------
def is_overload(function: Any) -> TypeGuard[Any]:
    """Whether the callable is one of ATen's own: an overload, or a name with several."""
    return isinstance(function, _overloads)


def one_overload(function: Any) -> Any:
    """An overload that states the names of the arguments."""
    if not hasattr(function, "overloads"):
        return function
    names = function.overloads()
    return getattr(function, "default" if "default" in names else names[0])


def schema_names(function: Any) -> tuple[str, ...]:
    """The names of an overload's arguments, ``self`` as rules know it: ``input``."""
    arguments = one_overload(function)._schema.arguments
    return tuple("input" if argument.name == "self" else argument.name for argument in arguments)


def stated_signatures() -> Any:
    """What torch states of the signatures of its functions, for overrides; without it arguments have positions only."""
    stated = _named(torch, "overrides", "get_testing_overrides")
    return {} if stated is None else stated()


def overridable(code: CodeType) -> list[str]:
    """The names by which a function of torch's asks whether a mode is on; a copy of it must be told that none is.

    Raises:
        UnsupportedOperationError: It hands itself to the mode, and asks by none of them: the copy would for ever.
    """
    asked = [name for name in code.co_names if name.startswith("has_torch_function")]
    if "handle_torch_function" in code.co_names and not asked:
        missing("has_torch_function", f"torch's {code.co_name!r} cannot be opened into its inner operations")()
    return asked


# ---- captum ----------------------------------------------------------------------------------------------------------
def _as_given(is_tuple: bool, relevances: tuple[Tensor, ...]) -> Any:
    return relevances if is_tuple else relevances[0]


formatted: Callable[[bool, tuple[Tensor, ...]], Any] = _named(captum_common, "_format_output") or _as_given
"""One tensor, or a tuple of them, as the inputs were."""
selected_unit: Callable[..., Tensor] = _named(captum_gradient, "_verify_select_neuron") or missing(
    "captum._utils.gradient._verify_select_neuron", "a unit cannot be chosen"
)
"""The value of the unit that Captum's selector names, shape (N,)."""
selected_targets: Callable[..., Tensor] = _named(captum_common, "_select_targets") or missing(
    "captum._utils.common._select_targets", "the laws for other attribution methods cannot choose a target"
)
"""The outputs that Captum's target names, shape (N,)."""
captums_rules = "captum.attr._utils.lrp_rules"
"""The module that Captum's own LRP rules are defined in: an object of another is not one of them."""
