"""The ledger's rows stand in the order of execution, also where a map's rule waits for the next operation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lrp_plugin import UnifiedLRP


@pytest.mark.parametrize("rule", ["epsilon", "zplus", "gamma", "alphabeta"])
def test_rows_stand_in_the_order_of_execution(rule: str) -> None:
    """A convolution under z+ waits for its BatchNorm and ReLU: its row came behind the ReLU's."""
    torch.manual_seed(0)
    body = [nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*body, nn.Linear(8, 3)).double().eval()
    rows = UnifiedLRP(model, rule=rule).ledger(torch.randn(1, 1, 6, 6, dtype=torch.float64), target=1).rows
    places = [int(row.path) for row in rows if row.path]
    assert places == sorted(places)
    assert {0, 2, 3, 4, 6} <= set(places)
