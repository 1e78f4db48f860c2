"""Custom autograd Functions that have a rule: registered by qualified class name, as ``package.module.MyFunction``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from lrp_plugin.algebra.signal import Signal
from lrp_plugin.propagation.spelling import Spelling
from lrp_plugin.propagation.unseen import cut
from lrp_plugin.registry import qualified_name

if TYPE_CHECKING:
    from lrp_plugin.propagation.mode import Propagation


def function_name(node: Any) -> str:
    """The qualified class name of the Function a node belongs to; empty for torch's own nodes."""
    kind = getattr(node, "_forward_cls", None)
    return "" if kind is None else qualified_name(kind)


def _same(input: Tensor) -> Tensor:
    return input.view_as(input)


def by_name(mode: Propagation, tensor: Tensor, sources: list[Tensor]) -> bool:
    """Whether what made ``tensor`` of ``sources`` has a rule; it is recorded then, as signal or as constant.

    That is a Function known by name, or a call that torch hands to no function mode (``as_subclass``, a view).
    """

    def function(*receivers: Tensor) -> Tensor:
        return cut(tensor, sources, list(receivers))

    node: Any = tensor.grad_fn
    name = function_name(node)
    spelling = Spelling(name, function, False, False)
    if node.name() == "AliasBackward0" and len(sources) == 1 and _reads(node, sources[0]):
        spelling = Spelling("view", _same, False, False)
    elif not name or mode.setup.chooser.default(name) is None:
        return False
    value = mode.carry_out(spelling, tuple(sources), {})
    record = mode.signals.get(value)
    if record is None:
        mode.remembered.constants.set(tensor, Signal())
        return True
    record.value = value
    mode.signals.set(tensor, record)
    return True


def _reads(node: Any, source: Tensor) -> bool:
    """Whether nothing lies between the node and the tensor."""
    before = node.next_functions[0][0]
    return before is source.grad_fn if source.grad_fn is not None else getattr(before, "variable", None) is source
