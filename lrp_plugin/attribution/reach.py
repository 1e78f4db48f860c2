"""Whether the explained output reached the input at all: where almost nothing did, an explainer says so, once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lrp_plugin.errors import warn
from lrp_plugin.torch_private import observed

if TYPE_CHECKING:
    from lrp_plugin.attribution.session import Explained, Session

LITTLE = 0.1
"""Where less of the output than this reaches the input, its scale cannot be read, and the remedy is named."""
_LOOKED = ("reach", "input")


def tell_of_little(session: Session, found: Explained) -> None:
    """Warns where less than `LITTLE` of the outputs of an explainer's first call reached the input.

    The first call alone: one number is read from the device then, and nothing later on. Nothing is looked at while a tracer
    looks on, where there are no values (meta), and where the composite hands on what biases would take.
    """
    if _LOOKED in session.warned or not found.output.numel() or found.output.is_meta or observed():
        return
    leave_out(session)
    if any(spec.parameters.get("bias") == "distribute" for _, spec in session.composite.pairs):
        return
    share = _share(found)
    if share < LITTLE:
        many = "" if len(found.output) == 1 else f"s of these {len(found.output)} examples"
        warn(
            f"only {100 * share:.2g} % of the explained output{many} reached the input: the map's pattern can be read, its "
            "scale cannot. The ledger says what took the rest, lrp.ledger(inputs, target).table(); what biases took, "
            'UnifiedLRP(model, ..., bias="distribute") hands on'
        )


def leave_out(session: Session) -> None:
    """Nothing is said of this explainer: it was looked at, or whoever calls it tells of its ledger."""
    session.warned.add(_LOOKED)


def _share(found: Explained) -> float:
    """Of the outputs' magnitude, over all examples; NaN where they are 0. Rows that are no examples count as one (graphs)."""
    output = found.output.detach()
    examples = len(output) if all(len(one) == len(output) for one in found.relevances) else 1

    def sums(values: Tensor) -> Tensor:
        return values.detach().to(output.device).reshape(examples, -1).sum(1, dtype=torch.float32)

    received = torch.stack([sums(one) for one in found.relevances]).sum(0)
    return float(received.abs().sum() / sums(output).abs().sum())
