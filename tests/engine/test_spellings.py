"""One operation, several spellings, one answer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lrp_plugin import UnifiedLRP
from lrp_plugin.testing import assert_same_as


def network(spelling: object) -> nn.Module:
    """linear -> the spelling -> linear, float64, the same weights each time."""

    class Spelled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.below, self.above = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.above(spelling(self.below(x)))  # type: ignore[operator]

    torch.manual_seed(0)
    return Spelled().double().eval()


X = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("rule", ["epsilon", "zplus"])
def test_two_spellings_of_one_network_are_the_same(rule: str) -> None:
    plain = network(functional.relu)
    assert_same_as(UnifiedLRP(plain, rule=rule), UnifiedLRP(network(torch.relu), rule=rule), X, target=1)
    with pytest.raises(AssertionError, match="outputs"):
        assert_same_as(UnifiedLRP(plain, rule=rule), UnifiedLRP(network(functional.elu), rule=rule), X, target=1)
    halved = UnifiedLRP(network(lambda t: 0.5 * t.relu() + 0.5 * t.relu().detach()), rule=rule)
    with pytest.raises(AssertionError, match="relevance of input 0"):
        assert_same_as(UnifiedLRP(plain, rule=rule), halved, X, target=1)


def test_a_spelling_that_is_warned_about_is_not_the_same() -> None:
    """The map is the same, but an operation without a rule is told of."""
    plain, spelled = network(lambda t: t * 1.0), network(lambda t: torch.digamma(t) * 0 + t)
    with pytest.raises(AssertionError, match="warned about"):
        assert_same_as(UnifiedLRP(plain), UnifiedLRP(spelled), X, target=1)
