"""Custom autograd Functions that have a rule: registered by qualified class name, as ``package.module.MyFunction``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from lrp_plugin.call import Signal
from lrp_plugin.propagation.spelling import Spelling
from lrp_plugin.propagation.unseen import cut
from lrp_plugin.registry import qualified_name

if TYPE_CHECKING:
    from lrp_plugin.propagation.mode import Propagation


def function_name(node: Any) -> str:
    """The qualified class name of the Function a node belongs to; empty for torch's own nodes."""
    kind = getattr(node, "_forward_cls", None)
    return "" if kind is None else qualified_name(kind)


def by_name(mode: Propagation, tensor: Tensor, sources: list[Tensor]) -> bool:
    """Whether the Function that made ``tensor`` of ``sources`` has a rule; it is recorded then, as signal or as constant."""
    name = function_name(tensor.grad_fn)
    if not name or mode.chooser.default(name) is None:
        return False

    def function(*receivers: Tensor) -> Tensor:
        return cut(tensor, sources, list(receivers))

    value = mode.carry_out(Spelling(name, function, False, False), tuple(sources), {})
    record = mode.signals.get(value)
    if record is None:
        mode.constants.set(tensor, Signal())
        return True
    record.value = value
    mode.signals.set(tensor, record)
    return True
