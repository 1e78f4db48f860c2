"""Questions to entries of a device that must be waited for: answered once, when the call is over. The CPU stands for one."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import Function

from lrp_plugin import UnifiedLRP
from lrp_plugin.algebra import looks
from lrp_plugin.errors import TargetError


@pytest.fixture(autouse=True)
def nothing_is_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """No device's entries can be looked at without waiting."""
    monkeypatch.setattr(looks, "HOST", set())


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many questions each call asked."""
    found: list[int] = []
    own = looks.Looks.settle

    def settle(self: looks.Looks) -> None:
        found.append(len(self._kept))
        own(self)

    monkeypatch.setattr(looks.Looks, "settle", settle)
    return found


def dense() -> nn.Sequential:
    """Two dense layers in double precision."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double().eval()


X = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_what_is_asked_is_answered_once_a_call(settled: list[int]) -> None:
    UnifiedLRP(dense()).attribute(X, target=1)
    assert len(settled) == 1
    assert settled[0] >= 3


def test_entries_that_are_not_finite_are_refused_when_the_call_is_over() -> None:
    broken = X.clone()
    broken[1, 2] = torch.inf
    with pytest.raises(ValueError, match="input 0 of shape \\(2, 4\\) holds NaN or infinite entries"):
        UnifiedLRP(dense()).attribute(broken, target=1)


def test_a_sum_that_overflows_is_no_infinite_entry() -> None:
    large = torch.full((1, 4), 1e308, dtype=torch.float64)
    assert not torch.isfinite(large.sum())
    UnifiedLRP(lambda x: x * 1e-308, rule="zero").attribute(large, target=1)


def test_an_output_that_is_nan_is_told_once() -> None:
    with pytest.warns(UserWarning, match="the explained output of example 0, 1 is NaN"):
        UnifiedLRP(lambda x: x.sum(1, keepdim=True) * torch.nan).attribute(X)


def test_a_softmax_is_told() -> None:
    with pytest.warns(UserWarning, match="seems to end in a softmax"):
        UnifiedLRP(nn.Sequential(dense(), nn.Softmax(1))).attribute(X, target=1)


@pytest.mark.parametrize("values", [[0, 2], [-1, -3]])
def test_target_numbers_that_stay_where_they_are(values: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    from lrp_plugin.attribution import targets

    lrp = UnifiedLRP(dense())
    expected = lrp.attribute(X, target=values)
    monkeypatch.setattr(targets, "_stays", lambda target, shape: True)
    torch.testing.assert_close(lrp.attribute(X, target=torch.tensor(values)), expected, rtol=0, atol=0)
    with pytest.raises(TargetError, match="target 3 is out of range: legal are 0 to 2, and -3 to -1"):
        lrp.attribute(X, target=torch.tensor([1, 3]))


def test_bounds_that_an_input_exceeds_are_told() -> None:
    from lrp_plugin.composites.ready import epsilon_gamma_box

    with pytest.warns(UserWarning, match="rule 'zbox': the layer's input runs from"):
        UnifiedLRP(dense(), composite=epsilon_gamma_box(-1e-3, 1e-3)).attribute(X, target=1)


def by_hand(x: Tensor) -> Tensor:
    """A softmax written out, the maximum detached."""
    shares = torch.exp(x - x.amax(1, keepdim=True).detach())
    return shares / shares.sum(1, keepdim=True)


class Attended(nn.Module):
    """Scores weighed by a softmax written by hand, which may be none: divided by another exponential's sum."""

    def __init__(self, other: bool) -> None:
        super().__init__()
        self.first, self.last, self.other = dense(), nn.Linear(3, 2).double(), other

    def forward(self, x: Tensor) -> Tensor:
        """Scores (N, 2)."""
        z = self.first(x)
        if not self.other:
            return self.last(by_hand(z))
        return self.last(torch.exp(z) / torch.exp(z * 1.5).sum(1, keepdim=True))


@pytest.mark.parametrize("other", [False, True])
def test_what_is_wrongly_supposed_is_made_again(other: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    model = Attended(other).eval()
    lrp = UnifiedLRP(model)
    found, account = lrp.attribute(X, target=1), lrp.ledger(X, target=1)
    assert lrp.session.looking == other  # from then on it looks at once
    monkeypatch.setattr(looks, "HOST", {"cpu"})
    torch.testing.assert_close(found, UnifiedLRP(model).attribute(X, target=1), rtol=0, atol=0)
    expected = UnifiedLRP(model).ledger(X, target=1)
    assert len(account.rows) == len(expected.rows)
    torch.testing.assert_close(account.other, expected.other, rtol=0, atol=0)


class Direct(Function):
    """Reads a map's value past the interception, as a C++ extension does."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        """Twice."""
        return value * 2

    @staticmethod
    def backward(ctx: Any, multiplier: Tensor) -> Tensor:
        """Twice."""
        return multiplier * 2


def test_relevance_that_was_lost_makes_the_pass_again() -> None:
    torch.manual_seed(0)
    first, last = nn.Linear(4, 5).double(), nn.Linear(5, 3).double()
    lrp = UnifiedLRP(lambda x: last(Direct.apply(first(x)).relu()), rule="zplus")
    plain = UnifiedLRP(lambda x: last((first(x) * 2).relu()), rule="zplus")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.testing.assert_close(lrp.attribute(X, target=1), plain.attribute(X, target=1), rtol=1e-9, atol=1e-12)


def test_buffers_that_a_kernel_wrote_are_given_back() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(4, 3).double()
            self.register_buffer("mean", torch.zeros(3, dtype=torch.float64))
            self.register_buffer("variance", torch.ones(3, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.batch_norm(self.dense(x), self.mean, self.variance, training=True)

    model = Counting().eval()
    lrp = UnifiedLRP(model)
    for _ in range(2):
        lrp.attribute(X, target=1)
        assert not model.mean.any()
        assert (model.variance == 1).all()
    assert lrp.session.lent


def test_relevance_is_what_it_is_where_one_looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        rule: UnifiedLRP(dense(), rule).attribute(X, target=1) for rule in ("epsilon", "zplus", "alphabeta", "gamma")
    }
    monkeypatch.setattr(looks, "HOST", {"cpu"})
    for rule, relevance in found.items():
        torch.testing.assert_close(UnifiedLRP(dense(), rule).attribute(X, target=1), relevance, rtol=0, atol=0)
