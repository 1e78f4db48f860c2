"""Operations that change a tensor's shape in place, and what a model asks of a tensor's shape."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lrp_plugin import UnifiedLRP

RULES = ("zero", "epsilon", "zplus", "alphabeta")
Change = Callable[[Tensor], Tensor]


def squeezed(h: Tensor) -> Tensor:
    return h.unsqueeze_(1).squeeze_(1).unsqueeze_(2)


def written_after(h: Tensor) -> Tensor:
    h.unsqueeze_(1)
    h.relu_()
    return h


def seen_by_a_view(h: Tensor) -> Tensor:
    first = h[:, :2]
    h.t_()
    h.mul_(2.0)
    return h.t() + first.sum(1, keepdim=True)


# In place, and what it says out of place.
CHANGES: dict[str, tuple[Change, Change]] = {
    "unsqueeze": (lambda h: h.unsqueeze_(1), lambda h: h.unsqueeze(1)),
    "squeeze": (squeezed, lambda h: h.unsqueeze(2)),
    "t": (lambda h: h.t_().mul(2.0).t(), lambda h: h.mul(2.0)),
    "transpose": (lambda h: h.transpose_(0, 1).transpose(0, 1), lambda h: h * 1.0),
    "swapaxes": (lambda h: h.swapaxes_(0, 1).t(), lambda h: h * 1.0),
    "written after": (written_after, lambda h: h.relu().unsqueeze(1)),
    "seen by a view": (seen_by_a_view, lambda h: h * 2 + (h * 2)[:, :2].sum(1, keepdim=True)),
}


class Net(nn.Module):
    def __init__(self, change: Change) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.change = nn.Linear(5, 6), nn.Linear(6, 4), change
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.change(self.first(x)).reshape(len(x), 6))  # type: ignore[no-any-return]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", CHANGES)
def test_a_shape_changed_in_place_is_one_changed_out_of_place(kind: str, rule: str) -> None:
    x = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    inplace, outside = (UnifiedLRP(Net(change), rule, strict=True) for change in CHANGES[kind])
    found = inplace.attribute(x, target=1)
    torch.testing.assert_close(Net(CHANGES[kind][0])(x), Net(CHANGES[kind][1])(x))
    torch.testing.assert_close(found, outside.attribute(x, target=1), rtol=1e-9, atol=1e-12)
    assert found.abs().sum() > 0
    ledger = inplace.ledger(x, target=1)
    torch.testing.assert_close(ledger.input, found.flatten(1).sum(1), rtol=1e-9, atol=1e-12)


def test_a_shape_is_that_of_the_tensor_as_it_stands() -> None:
    seen: list[tuple[object, ...]] = []

    def asked(h: Tensor) -> Tensor:
        h.unsqueeze_(1)
        seen.append(
            (h.dim(), h.ndim, tuple(h.shape), tuple(h.size()), h.numel(), h.dtype, h.device, len(h), h.size(dim=-1))
        )
        return h

    for rule in RULES:
        UnifiedLRP(Net(asked), rule).attribute(torch.randn(3, 5, dtype=torch.float64), target=1)
    cpu = torch.device("cpu")
    assert set(seen) == {(3, 3, (3, 1, 6), (3, 1, 6), 18, torch.float64, cpu, 3, 6)}
