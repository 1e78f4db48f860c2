"""Rules of additions, products and pools meet literal twins; relevance without a value passes whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lrp_plugin import Composite, UnifiedLRP, UnsupportedOperationError, registry, rule
from lrp_plugin.algebra.signal import Lineage, Signal
from lrp_plugin.composites import anything, linear_maps, operation
from lrp_plugin.rules.additions import path_lengths


class Written(nn.Module):
    """A forward pass given as a function, a multiplier behind it."""

    def __init__(self, function: Callable[..., Tensor], size: tuple[int, ...]) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.function = function
        self.multiplier = nn.Parameter(torch.randn(size, dtype=torch.float64))
        self.eval()

    def forward(self, *inputs: Tensor) -> Tensor:
        return (self.function(*inputs) * self.multiplier).flatten(1).sum(1)


def explained(function: Callable[..., Tensor], name: str, *inputs: Tensor, **parameters: Any) -> tuple[Any, Tensor]:
    """Relevance of the inputs by that rule, and the relevance of the function's value."""
    value = function(*inputs)
    model = Written(function, tuple(value.shape[1:]))
    lrp = UnifiedLRP(model, composite=Composite([(anything(), rule(name, **parameters))]), stabilizer=1e-12)
    ledger = lrp.ledger(inputs)
    assert ledger.gap.abs().max() <= 1e-9 * value.abs().max()
    return lrp.attribute(inputs), (value * model.multiplier).detach()


def two(shape: tuple[int, ...] = (2, 3, 4), other: tuple[int, ...] | None = None) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(shape, dtype=torch.float64), torch.randn(other or shape, dtype=torch.float64)


SUMS: dict[str, tuple[Callable[..., Tensor], Callable[..., tuple[Tensor, Tensor]]]] = {
    "add": (lambda a, b: a + b, lambda a, b: (a, b)),
    "sub": (lambda a, b: a - b, lambda a, b: (a, -b)),
    "alpha": (lambda a, b: torch.add(a, b, alpha=2), lambda a, b: (a, 2 * b)),
    "sub alpha": (lambda a, b: torch.sub(a, b, alpha=3), lambda a, b: (a, -3 * b)),
}


def shares(name: str, a: Tensor, b: Tensor) -> Tensor:
    """The first addend's share of the relevance."""
    if name == "ratio":
        return a.abs() / (a.abs() + b.abs())
    return torch.full_like(a, 0.5) if name == "equal" else a / (a + b)


@pytest.mark.parametrize("name", ["epsilon", "ratio", "equal"])
@pytest.mark.parametrize("spelling", sorted(SUMS))
@pytest.mark.parametrize("other", [None, (2, 1, 4), (2, 3, 1)])
def test_addition_meets_its_twin(name: str, spelling: str, other: tuple[int, ...] | None) -> None:
    function, terms = SUMS[spelling]
    a, b = two(other=other)
    (got_a, got_b), R = explained(function, name, a, b)
    share = shares(name, *(t.expand_as(a) for t in terms(a, b)))
    want_b = ((1 - share) * R).sum_to_size(b.shape)
    torch.testing.assert_close(got_a, share * R, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(got_b, want_b, rtol=1e-8, atol=1e-10)


def residual(x: Tensor) -> Tensor:
    return functional.relu(x * 2) + x


@pytest.mark.parametrize(("name", "factor"), [("skip", 0.0), ("branch", 1.0)])
def test_skip_and_branch_give_all_to_one_path(name: str, factor: float) -> None:
    """Also from zero-valued entries behind a ReLU: what arrives at the input is all of R."""
    (got,), R = explained(residual, name, two()[0])
    torch.testing.assert_close(got, R, rtol=1e-9, atol=1e-12)
    (left, right), R = explained(lambda a, b: functional.relu(a).abs().sqrt() + b, name, *two())
    want = R if factor else torch.zeros_like(R)
    torch.testing.assert_close(left, want, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(right, R - want, rtol=1e-9, atol=1e-12)


def made_from(*parents: Signal) -> Signal:
    """A signal that an operation made from these."""
    signal = Signal()
    signal.lineage = Lineage(parents, 1 + max((parent.lineage.depth for parent in parents), default=-1))
    return signal


def chain(signal: Signal, length: int) -> Signal:
    for _ in range(length):
        signal = made_from(signal)
    return signal


def test_paths_are_counted_from_the_last_common_signal() -> None:
    """An older common ancestor, the input, would give 6 and 3: the other operand would be the skip."""
    x = made_from()
    common = made_from(x)
    left, right = made_from(common, chain(x, 5)), chain(common, 2)
    assert path_lengths(left, right) == (1, 2)
    assert path_lengths(made_from(), chain(made_from(), 3)) == (0, 3), "nothing in common: counted from the inputs"


def test_the_longest_way_back_counts() -> None:
    """Two ways lead from the left operand to the common signal, of 2 and of 4 operations."""
    x = made_from()
    common = made_from(x)
    deeper = made_from(common, chain(x, 2))
    left = made_from(made_from(common), chain(deeper, 2))
    assert path_lengths(left, chain(common, 3)) == (4, 3)


def test_skip_with_equal_lengths_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedOperationError, match="operation 'add'.*neither is the skip"):
        explained(lambda x: functional.relu(x) + x.abs(), "skip", two()[0])


@pytest.mark.parametrize("other", [None, (2, 3, 1)])
def test_products_meet_their_twins(other: tuple[int, ...] | None) -> None:
    a, b = two(other=other)
    (half_a, half_b), R = explained(lambda x, y: x * y, "uniform", a, b)
    torch.testing.assert_close(half_a, R / 2)
    torch.testing.assert_close(half_b, (R / 2).sum_to_size(b.shape))
    (part, _), R = explained(lambda x, y: x * y, "ratio", a, b)
    torch.testing.assert_close(part, R * a.abs() / (a.abs() + b.abs()))
    (signal, gate), R = explained(lambda x, y: x * torch.sigmoid(y), "signal", a, b)
    torch.testing.assert_close(signal, R)
    assert not gate.any()
    (signal, gate), R = explained(lambda x, y: x * torch.sigmoid(y), "gradient", a, b)
    torch.testing.assert_close(signal, R)
    torch.testing.assert_close(gate, (R * b * (1 - torch.sigmoid(b))).sum_to_size(b.shape))


def test_proportional_pooling_meets_its_twin() -> None:
    """Each window's positive entries share by value; a window without one keeps to its maximum."""
    torch.manual_seed(2)
    x = torch.randn(1, 1, 4, 6, dtype=torch.float64)
    x[..., :2, :2] = -x[..., :2, :2].abs()
    (got,), R = explained(lambda t: functional.max_pool2d(t, 2), "proportional", x, stabilizer=1e-12)
    want = torch.zeros_like(x)
    for i in range(2):
        for j in range(3):
            window = x[0, 0, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            positive = window.clamp(min=0)
            part = positive / positive.sum() if positive.sum() > 0 else (window == window.max()).double()
            want[0, 0, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = part * R[0, 0, i, j]
    torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-10)


POOLS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "max_pool1d": (lambda t: functional.max_pool1d(t, 2), (6,)),
    "max_pool2d": (lambda t: functional.max_pool2d(t, 2), (4, 4)),
    "max_pool3d": (lambda t: functional.max_pool3d(t, 2), (4, 2, 2)),
    "adaptive_max_pool1d": (lambda t: functional.adaptive_max_pool1d(t, 3), (6,)),
    "adaptive_max_pool2d": (lambda t: functional.adaptive_max_pool2d(t, 2), (4, 4)),
    "adaptive_max_pool3d": (lambda t: functional.adaptive_max_pool3d(t, (2, 1, 1)), (4, 2, 2)),
}
"""Pools whose windows do not overlap: 2 entries along each dimension."""


@pytest.mark.parametrize("gate_first", [False, True])
def test_a_factor_broadcast_from_a_pooled_path_is_a_gate(gate_first: bool) -> None:
    """Without a sigmoid: fewer entries than the other factor's. Two factors of one size share evenly instead."""
    a, b = two(other=(2, 3, 1))
    (signal, gate), R = explained(lambda x, y: y * x if gate_first else x * y, "signal", a, b)
    torch.testing.assert_close(signal, R)
    assert not gate.any()
    (signal, gate), R = explained(lambda x, y: x * (1 - torch.sigmoid(y)), "signal", *two())  # a GRU's 1 - z
    torch.testing.assert_close(signal, R)
    assert not gate.any()
    (left, right), R = explained(lambda x, y: x * y, "signal", *two())
    torch.testing.assert_close(left, R / 2)
    torch.testing.assert_close(right, R / 2)


@pytest.mark.parametrize(
    ("operation_name", "name"),
    [(pool, name) for pool in POOLS for name in registry.names(pool)],
)
def test_pools_of_every_dimension_meet_their_twins(operation_name: str, name: str) -> None:
    """A window's relevance goes to its maximum, or to its positive entries by value; window by window."""
    function, size = POOLS[operation_name]
    torch.manual_seed(3)
    x = torch.rand(2, 2, *size, dtype=torch.float64) + 0.1  # so that every window has a positive entry
    assert name in ("winner_take_all", "proportional"), "a rule without a twin here"
    parameters = {"stabilizer": 1e-12} if name == "proportional" else {}
    (got,), R = explained(function, name, x, **parameters)
    want = torch.zeros_like(x)
    for place in torch.cartesian_prod(*(torch.arange(n) for n in R.shape)).tolist():
        window = (place[0], place[1], *(slice(2 * k, 2 * k + 2) for k in place[2:]))
        entries = x[window]
        part = entries / entries.sum() if name == "proportional" else (entries == entries.max()).double()
        want[window] = part * R[tuple(place)]
    torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-10)


def test_a_fused_sum_and_relu_gives_each_addend_its_signed_part() -> None:
    """add_relu of quantization's module: epsilon's shares where the sum is positive, nothing elsewhere."""
    a, b = two()
    functions = torch.ao.nn.quantized.FloatFunctional()
    (left, right), R = explained(functions.add_relu, "epsilon", a, b)
    share = torch.where(a + b > 0, a / (a + b), 0)
    torch.testing.assert_close(left, share * R, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(right, torch.where(a + b > 0, 1 - share, 0) * R, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["pass", "identity"])
def test_pass_of_bilinear_gives_each_entry_its_counterparts_relevance(name: str) -> None:
    torch.manual_seed(4)
    weight, other = torch.randn(3, 3, 2, dtype=torch.float64), torch.randn(2, 2, dtype=torch.float64)
    (got,), R = explained(lambda t: functional.bilinear(t, other, weight), name, torch.randn(2, 3, dtype=torch.float64))
    torch.testing.assert_close(got, R)


@pytest.mark.parametrize("name", ["pass", "identity"])
def test_pass_gives_each_entry_its_counterparts_relevance(name: str) -> None:
    x = torch.randn(2, 3, dtype=torch.float64)
    x[0, 0] = 0.0
    weight = torch.randn(3, 3, dtype=torch.float64)
    (got,), R = explained(lambda t: functional.linear(t, weight), name, x)
    torch.testing.assert_close(got, R)
    with pytest.raises(ValueError, match="rule 'pass'"):
        explained(lambda t: functional.linear(t, weight[:2]), name, x)


@pytest.mark.parametrize("sums", ["epsilon", "ratio", "equal"])
def test_relevance_without_a_value_passes_sums_pools_and_products(sums: str) -> None:
    """bias="distribute" below a residual sum, an average pool and a gate: the whole logit arrives, none is lost."""
    torch.manual_seed(0)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.head = (
                nn.Conv2d(2, 4, 3, padding=1),
                nn.Conv2d(4, 4, 3, padding=1),
                nn.Linear(4, 3),
            )
            self.norm = nn.BatchNorm2d(4)
            nn.init.normal_(self.norm.bias)

        def forward(self, x: Tensor) -> Tensor:
            x = functional.relu(self.one(x))
            x = functional.relu(self.norm(self.two(x)) + x)
            x = x * torch.sigmoid(x.mean((2, 3), keepdim=True))
            return self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))

    model, x = Block().double().eval(), torch.randn(2, 2, 6, 6, dtype=torch.float64)
    pairs = [
        (operation("add"), rule(sums)), (linear_maps(), rule("zplus", bias="distribute", stabilizer=1e-12)),
        (operation("batch_norm"), rule("affine", bias="distribute")),
        (~linear_maps(), rule("identity", bias="distribute")),
    ]  # fmt: skip
    lrp = UnifiedLRP(model, composite=Composite(pairs), stabilizer=1e-12)
    ledger = lrp.ledger(x, target=1)
    assert ledger.gap.abs().max() < 1e-12
    torch.testing.assert_close(ledger.input, ledger.output, rtol=1e-8, atol=0)
