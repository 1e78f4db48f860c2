"""Work that is not seen as a call (a custom autograd.Function): the ledger knows each of its sources."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lrp_plugin import UnifiedLRP
from lrp_plugin.errors import UnsupportedOperationWarning
from lrp_plugin.testing import assert_conserves

pytestmark = pytest.mark.filterwarnings(f"ignore::{UnsupportedOperationWarning.__module__}.UnsupportedOperationWarning")


class Blend(torch.autograd.Function):
    """``a / 2 + 2 b``: linear, so that native gradient loses nothing, and any source left out shows."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        return a * 0.5 + b * 2.0

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return gradient * 0.5, gradient * 2.0


def plain(a: Tensor, b: Tensor) -> Tensor:
    return a * 0.5 + b * 2.0


def kept_sources(h: Tensor, blend: Callable[..., Tensor]) -> Tensor:
    left, right = functional.gelu(h), h * 3.0
    return blend(left, right) + left  # one source has another reader


def dying_sources(h: Tensor, blend: Callable[..., Tensor]) -> Tensor:
    return blend(functional.gelu(h), torch.tanh(h))  # nobody holds the sources when the result is read


def one_source_twice(h: Tensor, blend: Callable[..., Tensor]) -> Tensor:
    left = functional.gelu(h)
    return blend(left, left)


def waiting_source(h: Tensor, blend: Callable[..., Tensor]) -> Tensor:
    weight = torch.eye(h.shape[1], dtype=h.dtype) + 0.25
    return blend(functional.linear(h, weight), h)  # under z+ the map waits for the next operation


def halves_of_one_node(h: Tensor, blend: Callable[..., Tensor]) -> Tensor:
    left, right = torch.cat([h, h * 2.0], 1).chunk(2, 1)
    return blend(left, right)


class Net(nn.Module):
    """linear, ``middle``, linear."""

    def __init__(self, middle: Callable[..., Tensor], blend: Callable[..., Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lower, self.upper = nn.Linear(4, 5), nn.Linear(5, 3)
        self.middle, self.blend = middle, blend
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.upper(self.middle(self.lower(x), self.blend))


@pytest.mark.parametrize("rule", ["epsilon", "zplus"])
@pytest.mark.parametrize("middle", [kept_sources, dying_sources, one_source_twice, waiting_source, halves_of_one_node])
def test_every_source_of_unseen_work_stands_in_the_ledger(middle: Callable[..., Tensor], rule: str) -> None:
    """The row's input is its output, nothing is booked as other, and the map is that of the plain spelling."""
    x = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    lrp = UnifiedLRP(Net(middle, Blend.apply), rule=rule)
    expected = UnifiedLRP(Net(middle, plain), rule=rule).attribute(x, 1)
    torch.testing.assert_close(lrp.attribute(x, 1), expected, rtol=1e-10, atol=1e-12)
    ledger = assert_conserves(lrp, x, 1, allowed_other=())
    (row,) = [row for row in ledger.rows if "Blend" in row.operation]
    torch.testing.assert_close(row.relevance_in, row.relevance_out, rtol=1e-10, atol=1e-12)
    assert row.relevance_out.abs().min() > 0
    assert ledger.input.allclose(expected.sum(1), rtol=1e-10)


@pytest.mark.parametrize(("middle", "passes"), [(waiting_source, 2), (kept_sources, 1)])
def test_a_value_let_go_is_found_by_a_second_pass(middle: Callable[..., Tensor], passes: int) -> None:
    """The pass that keeps what unseen work may have read runs where it is needed, and only there."""
    net, x = Net(middle, Blend.apply), torch.randn(2, 4, dtype=torch.float64)
    runs: list[None] = []
    with net.lower.register_forward_pre_hook(lambda module, given: runs.append(None)):
        UnifiedLRP(net, rule="zplus").attribute(x, 1)
    assert len(runs) == passes
