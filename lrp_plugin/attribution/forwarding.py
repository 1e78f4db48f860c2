"""Captum's ``forward_func``: another one that is set, as ``LLMGradientAttribution`` does, counts from the next call on."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import TYPE_CHECKING, Any

from lrp_plugin.kinds import checked_model

if TYPE_CHECKING:
    from lrp_plugin.attribution.unified import UnifiedLRP


class Forwarding:
    """An explainer whose model may be exchanged."""

    _forward_func: Callable[..., Any]

    @property
    def forward_func(self) -> Callable[..., Any]:
        """The model, or callable, as it was given."""
        return self._forward_func

    @forward_func.setter
    def forward_func(self, model: Callable[..., Any]) -> None:
        self._forward_func = checked_model(model)
        self._explain_from_now(model)

    def _explain_from_now(self, model: Callable[..., Any]) -> None:
        raise NotImplementedError


class ForwardingInside(Forwarding):
    """One that explains by a `UnifiedLRP` of its own; a copy's is no longer the first's."""

    _lrp: UnifiedLRP

    def _explain_from_now(self, model: Callable[..., Any]) -> None:
        if self._lrp.forward_func is not model:
            self._lrp = copy(self._lrp)
            self._lrp.forward_func = model
