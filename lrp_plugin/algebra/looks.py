"""What a pass asks of entries: at once where they lie in the host's memory, elsewhere all together when it is over.

A look at an entry of another device waits for all that was launched there. So a question is computed on the device, and
the answers of a whole call are read in one step, after the last kernel was launched.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lrp_plugin.torch_private import observed

HOST = {"cpu"}
"""Devices whose entries can be looked at without waiting."""


class WronglySupposedError(BaseException):
    """What was taken for true on a device is not: the pass must be made again, looking at once.

    No ``Exception``: the model's own ``except`` must not swallow it.
    """


class Looks:
    """Questions to entries, and what follows from a yes.

    A tracer cannot branch on an entry, and ``meta`` has none: there nothing is asked.

    Args:
        at_once: Wait for each answer, on any device.
    """

    def __init__(self, at_once: bool = False) -> None:
        self.at_once = at_once
        self._kept: list[tuple[Tensor, Callable[[], None]]] = []

    def ask(self, question: Callable[[], Tensor], then: Callable[[], None], must: bool = False) -> None:
        """Does ``then`` where the question's answer, a boolean tensor of one entry, is yes: now, or in `settle`.

        Args:
            question: Gives the answer. then: What follows.
            must: Ask where a tracer looks on, too: it says then that it cannot branch, where silence would be wrong.
        """
        if observed():
            if must and question():
                then()
            return
        with torch.no_grad():
            answer = question()
        if answer.is_meta:
            return
        if self.at_once or answer.device.type in HOST:
            if answer:
                then()
        else:
            self._kept.append((answer.reshape(()), then))

    def holds(self, question: Callable[[], Tensor]) -> bool:
        """Whether the answer is yes; on another device it is supposed to be.

        Raises:
            WronglySupposedError: In `settle`, where it was not.
        """
        doubted: list[None] = []
        self.ask(lambda: ~question(), lambda: self._doubt(doubted))
        return not doubted

    def _doubt(self, doubted: list[None]) -> None:
        if self._settling:
            raise WronglySupposedError
        doubted.append(None)

    _settling = False

    def settle(self) -> None:
        """Reads the answers, in one step for each device, and does what follows from them."""
        kept, self._kept, self._settling = self._kept, [], True
        for device in {answer.device for answer, _ in kept}:
            here = [(answer, then) for answer, then in kept if answer.device == device]
            for said, (_, then) in zip(torch.stack([answer for answer, _ in here]).tolist(), here):
                if said:
                    then()


def same(one: Tensor, other: Tensor) -> Callable[[], Tensor]:
    """The question whether two tensors of one shape hold the same; NaN is the same as nothing."""
    return lambda: (one == other).all()
