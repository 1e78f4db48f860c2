"""Questions to entries of a device that must be waited for: answered once, when the call is over. The CPU stands for one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lrp_plugin import UnifiedLRP
from lrp_plugin.algebra import looks
from lrp_plugin.algebra.primitives import ForgottenSourceError, mark
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


def lose(questions: looks.Looks) -> None:
    """A multiplier that reaches a marked value: relevance that something unseen sent past the interception."""
    source = torch.ones(3, requires_grad=True)
    value = mark(source * 2, [source], questions)
    torch.autograd.grad(value.sum(), source, allow_unused=True)


def test_relevance_that_was_lost_is_known_when_the_call_is_over() -> None:
    questions = looks.Looks()
    lose(questions)
    with pytest.raises(ForgottenSourceError):
        questions.settle()


def test_a_multiplier_of_zeros_lost_nothing() -> None:
    questions, source = looks.Looks(), torch.ones(3, requires_grad=True)
    value = mark(source * 2, [source], questions)
    torch.autograd.grad((value * 0).sum(), source, allow_unused=True)
    questions.settle()


def test_relevance_that_was_lost_is_known_while_a_mode_looks_on() -> None:
    """A dispatch mode may be a tracer, which cannot branch; silence would be wrong all the same."""
    with pytest.raises(ForgottenSourceError), FlopCounterMode(display=False):
        lose(looks.Looks())


class Counting(nn.Module):
    """BatchNorm in training, by a kernel that writes to buffers; it fails where told to."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(4, 3).double()
        self.fails = False
        self.register_buffer("mean", torch.tensor([0.0, torch.nan, 0.0], dtype=torch.float64))
        self.register_buffer("variance", torch.ones(3, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Scores (N, 3)."""
        mean = torch.where(self.mean.isnan(), 0, self.mean)
        found = nn.functional.batch_norm(self.dense(x), mean, self.variance, training=True)
        if self.fails:
            raise RuntimeError("the model's own")
        return found


CALLS = {
    "attribute": lambda lrp: lrp.attribute(X, target=1),
    "targets": lambda lrp: lrp.attribute_targets(X, [0, 1]),
    "ledger": lambda lrp: lrp.ledger(X, target=1),
    "plan": lambda lrp: lrp.plan(X),
}


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("call", CALLS)
def test_buffers_that_a_kernel_wrote_are_given_back(call: str, fails: bool) -> None:
    """Also where a buffer holds NaN, which equals nothing, and where the model fails after it wrote."""
    model = Counting().eval()
    lrp = UnifiedLRP(model)
    for _ in range(2):
        model.fails = fails
        if fails:
            with pytest.raises(RuntimeError, match="the model's own"):
                CALLS[call](lrp)
        else:
            CALLS[call](lrp)
        assert model.mean.isnan().tolist() == [False, True, False]
        assert (model.variance == 1).all()
    assert bool(lrp.session.lent) != fails


def test_a_buffer_of_nan_that_nobody_writes_makes_no_pass_again() -> None:
    model = nn.Sequential(nn.Linear(4, 3)).double().eval()
    model.register_buffer("unused", torch.full((3,), torch.nan))
    lrp = UnifiedLRP(model)
    lrp.attribute(X, target=1)
    assert lrp.session.lent == []


def test_relevance_is_what_it_is_where_one_looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        rule: UnifiedLRP(dense(), rule).attribute(X, target=1) for rule in ("epsilon", "zplus", "alphabeta", "gamma")
    }
    monkeypatch.setattr(looks, "HOST", {"cpu"})
    for rule, relevance in found.items():
        torch.testing.assert_close(UnifiedLRP(dense(), rule).attribute(X, target=1), relevance, rtol=0, atol=0)
