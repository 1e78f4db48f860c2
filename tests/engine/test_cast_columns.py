"""Columns cast to ids inside a model carry their relevance by a port, as integer ids do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lrp_plugin import UnifiedLRP
from lrp_plugin.testing import assert_conserves, assert_same_as

ROWS = torch.tensor([[0.5, -1.0, 3.0], [1.5, 2.0, 0.0], [-0.3, 0.7, 1.0]], dtype=torch.float64)
"""Two numbers and an id; one id is 0."""


class Table(nn.Module):
    """Two numbers and the vector of a category; the column is cast as ``ids`` says."""

    def __init__(self, ids: Callable[[Tensor], Tensor], vectors: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.layer = nn.Parameter(torch.randn(5, 3)), nn.Linear(5, 2)
        self.ids, self.vectors = ids, vectors
        self.double().eval()

    def forward(self, x: Tensor, column: Tensor | None = None) -> Tensor:
        ids = self.ids(x[:, 2]) if column is None else column
        return self.layer(torch.cat([self.vectors(ids, self.table), x[:, :2]], 1))


CASTS: dict[str, Callable[[Tensor], Tensor]] = {
    "long": lambda c: c.long(), "int": lambda c: c.int(), "to": lambda c: c.to(torch.int64),
    "to named": lambda c: c.to(dtype=torch.int32).long(), "type": lambda c: c.type(torch.int64),
    "rounded": lambda c: (c + 0.2).round().long(), "of a product": lambda c: (c * 1.0).long(),
    "shifted": lambda c: (c.long() + 1) - 1, "clamped": lambda c: c.long().clamp(0, 4),
    "reshaped": lambda c: c.long()[:, None].squeeze(1),
}  # fmt: skip
VECTORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "embedding": functional.embedding,
    "one-hot": lambda ids, table: functional.one_hot(ids.long(), 5).to(table.dtype) @ table,
    "index": lambda ids, table: table[ids.long()],
    "index of columns": lambda ids, table: table.t()[:, ids.long()].t(),
    "index_select": lambda ids, table: table.index_select(0, ids),
    "gather": lambda ids, table: table.gather(0, ids.long()[:, None].expand(-1, 3)),
    "bag": lambda ids, table: functional.embedding_bag(ids[:, None], table, mode="sum"),
}  # fmt: skip


@pytest.mark.parametrize("options", [{"epsilon": 0.1}, {"rule": "zplus"}, {"rule": "flat"}], ids=str)
@pytest.mark.parametrize("vectors", VECTORS)
def test_a_cast_column_is_a_column_of_ids(vectors: str, options: dict[str, Any]) -> None:
    """Relevance of the cast column is that of ids handed in as integers; the id 0 has some too."""
    apart = UnifiedLRP(Table(CASTS["long"], VECTORS[vectors]), **options)
    numbers, ids = apart.attribute((ROWS, ROWS[:, 2].long()), target=1)
    together = UnifiedLRP(Table(CASTS["long"], VECTORS[vectors]), **options)
    found = together.attribute(ROWS, target=1)
    torch.testing.assert_close(found[:, :2], numbers[:, :2], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found[:, 2], ids, rtol=1e-10, atol=1e-12)
    assert bool((found[:, 2] != 0).all())
    assert_conserves(together, ROWS, target=1)


@pytest.mark.parametrize("cast", CASTS)
def test_every_cast_is_the_same(cast: str) -> None:
    plain, spelled = (Table(CASTS[name], functional.embedding) for name in ("long", cast))
    assert_same_as(UnifiedLRP(plain, epsilon=0.1), UnifiedLRP(spelled, epsilon=0.1), ROWS, target=1)


def test_integers_made_numbers_again_pass_all_relevance_on() -> None:
    """An image rounded to whole numbers inside the model: each number's relevance is its entry's."""
    torch.manual_seed(0)
    layer = nn.Linear(3, 2).double()
    lrp = UnifiedLRP(lambda x: layer((x * 100).long().double()), rule="zero")
    whole = (ROWS * 100).trunc()
    expected = UnifiedLRP(layer, rule="zero").attribute(whole, target=0)
    torch.testing.assert_close(lrp.attribute(ROWS, target=0), expected, rtol=1e-10, atol=1e-10)


def test_a_plan_and_a_ledger_hold_each_operation_once() -> None:
    """The pass is made again with ports: what the first had written down is gone."""
    model = Table(CASTS["long"], functional.embedding)
    assert [site.name for site, _ in UnifiedLRP(model).plan(ROWS).entries].count("linear") == 1
    assert [row.operation for row in UnifiedLRP(model).ledger(ROWS, target=1).rows].count("linear") == 1
