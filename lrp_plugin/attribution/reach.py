"""Whether the explained output reached the input at all: where almost nothing did, an explainer says so, once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lrp_plugin.algebra.looks import Looks
from lrp_plugin.errors import warn

if TYPE_CHECKING:
    from lrp_plugin.attribution.session import Explained, Session

LITTLE = 0.1
"""Where less of the output than this reaches the input, its scale cannot be read, and the remedy is named."""
_LOOKED = ("reach", "input")


def tell_of_little(session: Session, found: Explained, looks: Looks) -> Explained:
    """The explanation as it is; a warning where less than `LITTLE` of an explainer's first outputs reached the input.

    The first call alone, and among what the call asks of entries anyway: later ones ask nothing. Nothing is asked where the
    composite hands on what biases would take.
    """
    handing_on = any(spec.parameters.get("bias") == "distribute" for _, spec in session.composite.pairs)
    there = found.output.numel() and not found.output.is_meta
    if there and not handing_on and _LOOKED not in session.warned:
        looks.ask(lambda: _share(found) < LITTLE, lambda: _tell(session, found))
        looks.ask(lambda: ~(_share(found) < LITTLE), lambda: leave_out(session))
    return found


def leave_out(session: Session) -> None:
    """Nothing is said of this explainer: it was looked at, or whoever calls it tells of its ledger."""
    session.warned.add(_LOOKED)


def _tell(session: Session, found: Explained) -> None:
    leave_out(session)
    many = "" if len(found.output) == 1 else f"s of these {len(found.output)} examples"
    warn(
        f"only {100 * float(_share(found)):.2g} % of the explained output{many} reached the input: the map's pattern can be "
        "read, its scale cannot. The ledger says what took the rest, lrp.ledger(inputs, target).table(); what biases took, "
        'UnifiedLRP(model, ..., bias="distribute") hands on'
    )


def _share(found: Explained) -> Tensor:
    """Of the outputs' magnitude, over all examples; NaN where they are 0. Rows that are no examples count as one (graphs)."""
    output = found.output.detach()
    examples = len(output) if all(len(one) == len(output) for one in found.relevances) else 1

    def sums(values: Tensor) -> Tensor:
        return values.detach().to(output.device).reshape(examples, -1).sum(1, dtype=torch.float32)

    received = torch.stack([sums(one) for one in found.relevances]).sum(0)
    return received.abs().sum() / sums(output).abs().sum()
