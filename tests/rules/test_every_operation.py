"""Laws that hold of every registered operation: what stands around it changes nothing, and nothing of a pass stays."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lrp_plugin import LayerUnifiedLRP, NeuronUnifiedLRP, UnifiedLRP
from lrp_plugin.propagation.spelling import spelling_of

pytest.importorskip("expecttest", reason="torch's own table of samples needs it")
from operations import OneCall, calls

NAMES = sorted(calls())


def _explained(model: Callable[..., Any], x: Tensor, **options: Any) -> Tensor:
    torch.manual_seed(0)  # some draw numbers
    return UnifiedLRP(model, **options).attribute(x, target=0)  # type: ignore[no-any-return]


def test_the_laws_run_for_nearly_every_operation() -> None:
    assert len(NAMES) >= 300


@pytest.mark.parametrize("name", NAMES)
def test_hooks_and_wrappers_change_nothing(name: str) -> None:
    call = calls()[name].eval()
    x, net = call.entries(), nn.Sequential(call)
    for options in ({"rule": "zero"}, {"composite": "epsilon_plus_flat"}):
        plain = _explained(net, x, **options)
        bound = 1e-12 * max(1.0, float(plain.abs().max()))
        assert (_explained(lambda v: net(v), x, **options) - plain).abs().max() <= bound
        handles = [
            call.register_full_backward_hook(lambda _, sent, __: tuple(None if g is None else 3 * g for g in sent)),
            call.register_forward_hook(lambda _, __, output: (output.register_hook(lambda g: 3 * g), None)[1]),
        ]
        try:
            assert (_explained(net, x, **options) - plain).abs().max() <= bound
        finally:
            for handle in handles:
                handle.remove()


# ---- in place ------------------------------------------------------------------------------------------------------
FORMS = {
    name: getattr(torch.Tensor, f"{name}_")
    for name in NAMES
    if hasattr(torch.Tensor, f"{name}_") and hasattr(torch.Tensor, name)
}
WITHOUT = {
    "bernoulli": "draws", "cauchy": "draws", "resize": "another size", "set": "another memory", "as_strided": "a view",
    "unsqueeze": "a view", "squeeze": "a view", "t": "a view", "transpose": "a view", "swapdims": "a view",
    "swapaxes": "a view", "detach": "a view", "requires_grad": "no operation", "cumsum": "by dimension",
    "copy": "written by the table", "fill": "written by the table", "zero": "written by the table",
}  # fmt: skip
"""In-place forms that the law below leaves out; those that are views are held by tests/engine/test_reshaped_in_place.py."""


class _InPlace(nn.Module):
    """The call of the table, its operation asked for in place, of a copy of its first argument."""

    def __init__(self, call: OneCall, name: str, writes: bool) -> None:
        super().__init__()
        self.call = call
        self.name = name
        self.writes = writes

    def forward(self, x: Tensor) -> Tensor:
        function = self.call.function
        self.call.function = self._asked
        try:
            return self.call(x)  # type: ignore[no-any-return]
        finally:
            self.call.function = function

    def _asked(self, first: Tensor, *rest: Any, **named: Any) -> Tensor:
        held = first * 1.0
        value: Tensor = getattr(held, f"{self.name}_" if self.writes else self.name)(*rest, **named)
        return held if self.writes else value


def _in_place(name: str) -> tuple[Tensor, _InPlace, _InPlace] | None:
    call = calls()[name].eval()
    x, plain, written = call.entries(), _InPlace(call, name, False), _InPlace(call, name, True)
    try:
        values = [model(x) for model in (plain, written)]
    except (RuntimeError, TypeError, IndexError, AttributeError):
        return None  # the table's arguments are another spelling's, or do not fit what is written to
    return (x, plain, written) if torch.allclose(*values) else None


@pytest.mark.parametrize("name", sorted(set(FORMS) - set(WITHOUT)))
def test_in_place_is_out_of_place(name: str) -> None:
    case = _in_place(name)
    if case is None:
        pytest.skip("the table's call has no in-place form")
    x, plain, written = case
    for options in ({"rule": "zero"}, {"rule": "epsilon", "bias": "distribute"}):
        wanted, found = _explained(plain, x, **options), _explained(written, x, **options)
        bound = 1e-10 * max(1.0, float(wanted.abs().max()))
        assert (found - wanted).abs().max() <= bound
        account = UnifiedLRP(written, **options).ledger(x, target=0)
        assert account.gap.abs().max() <= 10 * bound * max(1.0, float(account.output.abs().max()))


def test_in_place_forms_run_for_most() -> None:
    """Else the law above would be one about nothing."""
    run = [name for name in set(FORMS) - set(WITHOUT) if _in_place(name) is not None]
    print(f"in place: {len(run)} of {len(FORMS)}")
    assert len(run) >= 50
    assert all(spelling_of(FORMS[name]).writes for name in run)


# ---- nothing stays -------------------------------------------------------------------------------------------------
def _tensors() -> int:
    return sum(issubclass(type(item), Tensor) for item in gc.get_objects())


def _every_explanation(name: str) -> None:
    call = calls()[name].eval()
    x, net = call.entries(), nn.Sequential(call)
    torch.manual_seed(0)
    lrp = UnifiedLRP(net, rule="zplus")
    lrp.attribute(x, target=0)
    lrp.attribute_targets(x, [0, 0])
    lrp.ledger(x, target=0)
    LayerUnifiedLRP(net, call, rule="zplus").attribute(x, target=0)
    NeuronUnifiedLRP(net, call, rule="zplus").attribute(x, 0)


@pytest.mark.filterwarnings("ignore")
def test_no_tensor_is_left_to_the_collector() -> None:
    names = NAMES
    for name in names:  # what is kept once and for all
        _every_explanation(name)
    gc.collect()
    gc.disable()
    try:
        before = _tensors()
        for name in names:
            _every_explanation(name)
        left = _tensors() - before
        if left > 0:  # which of them
            guilty = []
            for name in names:
                before = _tensors()
                _every_explanation(name)
                guilty += [name] if _tensors() > before else []
            assert not guilty, f"tensors are left by {guilty}"
    finally:
        gc.enable()
