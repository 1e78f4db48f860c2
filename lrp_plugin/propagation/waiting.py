"""Maps whose rule waits for the next operation: a BatchNorm to fold in, a ReLU that follows."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from lrp_plugin.algebra.blockwise import observed
from lrp_plugin.algebra.call import Call, LazyPort, Pending, Signal, map_tensors
from lrp_plugin.algebra.primitives import mark
from lrp_plugin.composites.composite import Choice, Chooser
from lrp_plugin.composites.site import Site
from lrp_plugin.ledger import Row
from lrp_plugin.propagation.ports import Ports
from lrp_plugin.propagation.signals import Signals
from lrp_plugin.propagation.spelling import Spelling, bind


def constant_of(tensor: Tensor) -> Tensor:
    """A parameter as a constant; one made in inference mode as a copy, since autograd may not save it."""
    if tensor.is_inference():
        return tensor.clone()
    return tensor.detach() if tensor.requires_grad else tensor


def cast_of(device: str) -> torch.dtype | None:
    """What autocast casts to on a kind of device; None where it does not."""
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def casting(device: str, cast: torch.dtype | None) -> AbstractContextManager[Any]:
    """Autocast as it was then, where that is not how it is now."""
    if cast_of(device) == cast:
        return nullcontext()
    return torch.autocast(device, dtype=cast, enabled=cast is not None)


class Waiting(Ports):
    """The part of `Propagation` that lets a rule wait."""

    chooser: Chooser
    plan: list[tuple[Site, Choice]] | None
    signals: Signals
    keep: bool
    _kept: list[Tensor]

    @property
    def ports(self) -> bool:
        """Overridden."""
        raise NotImplementedError

    def make_call(
        self, choice: Choice, spelling: Spelling, args: Any, kwargs: Any, tensors: list[Tensor],
        found: dict[int, Signal], row: Row | None, rectified: bool = False,
    ) -> Call:  # fmt: skip
        """Overridden."""
        raise NotImplementedError

    def _row(self, path: str, operation: str, choice: Choice) -> Row:
        raise NotImplementedError

    def _defer(
        self, choice: Choice, spelling: Spelling, args: Any, kwargs: Any, tensors: list[Tensor],
        found: dict[int, Signal], site: Site,
    ) -> Any:  # fmt: skip
        held = {id(t): t if (s := found.get(id(t))) is None else self._settled(t, s, False) for t in tensors}
        records = {id(held[key]): signal for key, signal in found.items()}
        args = map_tensors(args, lambda t: held[id(t)])
        kwargs = map_tensors(kwargs, lambda t: held[id(t)])
        settled_signals = {key: signal.standing() for key, signal in records.items()}
        path, name = (site.path, site.name) if self.recorder is not None else ("", "")
        device = tensors[0].device.type
        cast = cast_of(device)

        def settle(
            value: Tensor, rectified: bool, followers: tuple[Call, ...] = ()
        ) -> tuple[Tensor, Tensor | LazyPort | None, Call]:
            joined = "+".join([name, *(str(follower.operation) for follower in followers)])
            row = self._row(path, joined, choice) if self.recorder is not None else None
            call = self.make_call(choice, spelling, args, kwargs, list(held.values()), settled_signals, row, rectified)
            call.value, call.followers = value, followers
            assert choice.rule.formula is not None
            with casting(device, cast):  # the reader may stand behind the end of a region, or at the start of one
                out = choice.rule.formula(call, **choice.parameters)
            return self._tapped(out, call, 0), self._tapped_port(call), call

        native = spelling.function(*self._detached(args, records), **self._detached(kwargs, records))
        native = mark(native, [tensor for tensor in held.values() if id(tensor) in records])
        return self._pending(native, Pending(settle, spelling.operation), tuple(found.values()))

    def _detached(self, value: Any, signals: dict[int, Signal]) -> Any:
        return map_tensors(value, lambda t: t.detach() if id(t) in signals else constant_of(t))

    def _follow(
        self, spelling: Spelling, args: Any, kwargs: Any, signal: Signal, site: Site, choice: Choice
    ) -> Any:  # fmt: skip
        pending = signal.pending
        assert pending is not None
        value = spelling.function(*self._detached(args, {id(args[0]): signal}), **self._detached(kwargs, {}))
        value = mark(value, args[:1])
        if self.plan is not None:
            self.plan.append((site.located(), Choice.folded(choice)))
        follower = Call(spelling.operation, spelling.function, args, kwargs, {},
                        bind(spelling.function, args, kwargs))  # fmt: skip
        return self._pending(value, pending.followed_by(follower), (signal,))

    def _pending(self, value: Tensor, pending: Pending, parents: tuple[Signal, ...]) -> Tensor:
        record = Signal()
        record.pending = pending
        if self.chooser.lineage:
            record.descend(parents)
        self.signals.set(value, record)
        if self.keep:
            self._kept.append(value)
        return value

    def _settled(self, tensor: Tensor, signal: Signal, rectified: bool, spare: bool = False) -> Tensor:
        if signal.pending is None:
            return tensor if signal.value is None else signal.value
        for known in (rectified, False):
            if known in signal.settled:
                return signal.settled[known]
        held = tensor.detach()
        if rectified and self.recorder is None and not self.ports:  # else the other entries' values are asked for
            held = held.clamp_(min=0) if spare and not observed() else held.clamp(min=0)
            signal.rectified = True
        # A custom autograd.Function may be the first to look, and its forward records nothing.
        with torch.enable_grad():
            value, port, call = signal.pending.settle(held, rectified, signal.pending.followers)
        signal.settle(rectified, value)
        signal.masked = signal.masked or (rectified and call.masked)
        signal.free = call.free and call.row is None
        signal.port = port if port is not None else signal.port
        return value
