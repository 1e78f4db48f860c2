"""In-place writes: what a tensor holds now, and who shares its memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lrp_plugin.blockwise import observed
from lrp_plugin.call import Signal, map_tensors, tensors_in
from lrp_plugin.propagation.signals import Signals, Storages, shares_memory


class Writes:
    """The part of `Propagation` that follows in-place writes; memory itself is never written."""

    signals: Signals
    storages: Storages
    keep: bool
    _model: Any
    _state: set[int] | None = None

    @property
    def ports(self) -> bool:
        """Overridden."""
        raise NotImplementedError

    def _find(self, tensor: Tensor) -> Signal | None:
        raise NotImplementedError

    def _settled(self, tensor: Tensor, signal: Signal, rectified: bool, spare: bool = False) -> Tensor:
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
        if signal is None or signal.viewed or signal.root is not None or target._is_view():
            root = signal.root if signal is not None and signal.root is not None else target
            if signal is None and target._base is not None:
                root = target._base
            place, current = self._place(target), self.value_of(value)
            held, held_root = self._token_port(value), self._token_port(root)
            self.storages.write(place, current, self._place(root), lambda: self.value_of(root))
            self.storages.write_port(place, held, self._place(root), held_root)
            return target
        if (known := self.signals.get(value)) is None:  # a constant was written over the whole signal
            constant = Signal(value)
            constant.token = signal.token
            constant.port = torch.zeros_like(value, dtype=torch.float64) if signal.token else None
            self.signals.set(target, constant)
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
        if not isinstance(tensor, Tensor) or torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            return False  # inside vmap no tensor has memory
        if self._state is None:
            owner = self._model if isinstance(self._model, nn.Module) else getattr(self._model, "__self__", None)
            held = [*owner.parameters(), *owner.buffers()] if isinstance(owner, nn.Module) else []
            self._state = {t.untyped_storage()._cdata for t in held if t.layout is torch.strided}
        return tensor.untyped_storage()._cdata in self._state

    def _token_port(self, tensor: Any) -> Tensor | None:
        signal = self._find(tensor) if isinstance(tensor, Tensor) else None
        return signal.port if signal is not None and signal.token else None

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
