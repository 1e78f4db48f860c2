"""In-place writes: what a tensor holds now, and who shares its memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lrp_plugin.algebra.blockwise import observed
from lrp_plugin.algebra.call import Signal, map_tensors, tensors_in
from lrp_plugin.algebra.formulas import relevance_of
from lrp_plugin.algebra.primitives import tap
from lrp_plugin.ledger import Recorder, Row
from lrp_plugin.propagation.paths import ModulePaths
from lrp_plugin.propagation.signals import Signals, Storages, shares_memory


class Writes:
    """The part of `Propagation` that follows in-place writes; memory itself is never written."""

    recorder: Recorder | None
    signals: Signals
    storages: Storages
    keep: bool
    paths: ModulePaths

    @property
    def ports(self) -> bool:
        """Overridden."""
        raise NotImplementedError

    def _find(self, tensor: Tensor) -> Signal | None:
        raise NotImplementedError

    def _settled(self, tensor: Tensor, signal: Signal, rectified: bool, spare: bool = False) -> Tensor:
        raise NotImplementedError

    def _port(self, tensor: Tensor, signal: Signal, row: Row | None) -> Tensor:
        raise NotImplementedError

    def value_of(self, tensor: Tensor) -> Tensor:
        """The differentiable tensor that stands for what the model returned."""
        signal = self._find(tensor)
        if signal is not None:
            return self._settled(tensor, signal, False)
        return self._current(tensor)

    def write(self, target: Tensor, value: Any) -> Tensor:
        """Records that ``target`` now holds ``value``; its memory is not written."""
        if value is None or value is target:  # dropout that drops nothing
            return target
        signal, place = self.signals.get(target), self._place(target)
        if shares_memory(value, place) and (value.shape, value.stride()) != (place.shape, place.stride()):
            known = self.signals.get(value)  # the same entries seen another way (unsqueeze_, t_)
            if known is not None:
                known.value = value
                self.signals.set(target, known)
                return target
        known = self.signals.get(value)
        if known is None or signal is None or signal.viewed or signal.root is not None or target._is_view():
            root = signal.root if signal is not None and signal.root is not None else target
            if signal is None and target._base is not None:
                root = target._base
            place, current = self._place(target), self.value_of(value)
            whole = self._place(root)
            ports = self._written_ports(value, root, place)
            self.storages.write(place, current, whole, lambda: self.value_of(root))
            if ports is not None:
                self.storages.write_port(place, ports[0], whole, ports[1])
            return target
        known.value = known.value if known.value is not None or known.pending is not None else value
        if known.pending is not None:
            self._settled(value, known, False)
            known.value, known.pending = known.settled[False], None
        self.signals.set(target, known)
        if (
            known.value is value
        ):  # nobody else sees it: its own record would keep it, and itself, to the end of the pass
            self.signals.drop(known.value)
        return target

    def booking_constants(self, current: Tensor, constants: Tensor | None) -> Tensor:
        """A written tensor's value; what reaches its constant entries is booked, each time it is read."""
        if constants is None or self.recorder is None:
            return current
        row = self.recorder.open_row(self.paths.current()[0], "write", "constants")
        held = current.detach()
        row.absorptions.append(("constant", 0, lambda m: relevance_of(held, m) * constants))
        signals = tap(torch.where(constants, 0, current), self.recorder.input_sink(row))
        return tap(signals + torch.where(constants, held, 0), self.recorder.output_sink(row, 0))

    def is_spare(self, tensor: Tensor, signal: Signal) -> bool:
        """Whether a call that asks to write there may: the memory is a rule's own, and this call is its first reader."""
        if self.keep or self.ports or signal.reads > 1 or signal.settled or signal.viewed or signal.root is not None:
            return False
        if tensor._is_view() or signal.lazy_port is not None:
            return False
        if signal.pending is not None or signal.joined is None:
            return signal.pending is not None
        return signal.value is None or (not observed() and signal.value.data_ptr() == tensor.data_ptr())

    def _is_state(self, tensor: Any) -> bool:
        """Whether the tensor lies in the memory of a parameter or buffer of the model."""
        if not isinstance(tensor, Tensor) or tensor.layout is not torch.strided:
            return False
        if torch._C._functorch.is_functorch_wrapped_tensor(tensor):  # inside vmap no tensor has memory
            return False
        return tensor.untyped_storage()._cdata in self.paths.state()

    def _written_ports(self, value: Any, root: Tensor, place: Tensor) -> tuple[Tensor | None, Tensor | None] | None:
        """The ports of what is written and of the memory before; None where neither has one: the reader ends it then."""
        written, before = self._find(value) if isinstance(value, Tensor) else None, self._find(root)
        sides = [signal for signal in (written, before) if signal is not None and (signal.token or self.ports)]
        if not self.storages.has_port(place) and not any(signal.port is not None for signal in sides):
            return None
        return tuple(  # type: ignore[return-value]
            None if signal is None else signal.port if signal.token else self._port(self.value_of(tensor), signal, None)
            for tensor, signal in ((value, written), (root, before))
        )

    def views(self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor], found: dict[int, Signal]) -> Any:
        """Views of memory that was written to, as views of that memory, so that both see later writes; else None."""
        if not any(self.storages.holds(self._place(t)) for t in tensors if id(t) in found):
            return None
        with torch.no_grad():
            args, kwargs = (map_tensors(given, lambda t: self._place(t).detach()) for given in (tuple(args), kwargs))
            views = func(*args, **kwargs)
        return views if all(self.storages.holds(view) for view in tensors_in(views, [])) else None

    def _place(self, tensor: Tensor) -> Tensor:
        """The tensor whose memory stands for this one's."""
        signal = self.signals.get(tensor)
        return tensor if signal is None or signal.value is None else signal.value

    def _current(self, tensor: Tensor) -> Tensor:
        place = self._place(tensor)
        return self.storages.read(place) if self.storages.holds(place) else tensor

    def note_view(self, view: Tensor, signal: Signal, sources: list[tuple[Tensor, Signal]]) -> None:
        """Remembers whose memory a view shares: a write to either is seen by both."""
        for tensor, known in sources:
            if tensor is not view and shares_memory(view, self._place(tensor)):
                known.viewed = True
                signal.root = tensor if known.root is None else known.root
                return
