"""embedding_bag, bilinear and rsub meet literal twins."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_linear_rules import MODES, PARAMETERS, TAKES_BIAS
from torch import Tensor, nn
from torch.nn import functional
from twins import TWINS, Matrix

from lrp_plugin import Composite, UnifiedLRP, rule
from lrp_plugin.composites import anything, operation
from lrp_plugin.testing import assert_conserves

IDS = torch.tensor([[1, 4, 4, 0], [2, 3, 0, 5]])


class Bag(nn.Module):
    """Bags of four tokens, weighted by a fixed multiplier and summed.

    Args:
        mode: Of `torch.nn.functional.embedding_bag`.
        weights: Weights per sample, (2, 4), or None.
        padding_idx: As there.
    """

    def __init__(self, mode: str, weights: Tensor | None = None, padding_idx: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mode, self.weights, self.padding_idx = mode, weights, padding_idx
        self.table = nn.Parameter(torch.randn(6, 3, dtype=torch.float64))
        self.multiplier = nn.Parameter(torch.randn(3, dtype=torch.float64))

    def forward(self, ids: Tensor, weights: Tensor | None = None) -> Tensor:
        factors = self.weights if weights is None else weights
        value = functional.embedding_bag(
            ids, self.table, mode=self.mode, per_sample_weights=factors, padding_idx=self.padding_idx
        )
        return value @ self.multiplier


def expected(model: Bag, weights: Tensor | None = None) -> Tensor:
    """Each token's vector times the multiplier, by its weight and by the number of tokens that count in its bag."""
    found = torch.zeros(IDS.shape, dtype=torch.float64)
    for bag, ids in enumerate(IDS.tolist()):
        counted = [token for token in ids if token != model.padding_idx]
        for place, token in enumerate(ids):
            if token == model.padding_idx:
                continue
            for feature in range(3):
                part = float((model.table[token, feature] * model.multiplier[feature]).detach())
                if model.mode == "mean":
                    part /= len(counted)
                if model.mode == "max" and place != max(
                    (k for k in range(4) if ids[k] != model.padding_idx),
                    key=lambda k, ids=ids, feature=feature: (float(model.table[ids[k], feature].detach()), -k),
                ):
                    part = 0.0
                if weights is not None:
                    part *= float(weights[bag, place])
                found[bag, place] += part
    return found


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding_idx", [None, 0])
def test_a_bags_tokens_get_their_vectors_part(mode: str, padding_idx: int | None) -> None:
    model = Bag(mode, padding_idx=padding_idx).eval()
    lrp = UnifiedLRP(model, rule="zero")
    torch.testing.assert_close(lrp.attribute(IDS), expected(model), rtol=1e-12, atol=1e-14)
    assert_conserves(lrp, IDS)


def test_constant_weights_per_sample_are_coefficients() -> None:
    weights = torch.tensor([[0.5, -1.0, 2.0, 3.0], [1.0, 0.0, -2.0, 0.25]], dtype=torch.float64)
    model = Bag("sum", weights).eval()
    lrp = UnifiedLRP(model, rule="zero")
    torch.testing.assert_close(lrp.attribute(IDS), expected(model, weights), rtol=1e-12, atol=1e-14)
    assert_conserves(lrp, IDS)


def test_weights_per_sample_that_are_explained_share_evenly_with_the_tokens() -> None:
    weights = torch.tensor([[0.5, -1.0, 2.0, 3.0], [1.0, 0.0, -2.0, 0.25]], dtype=torch.float64)
    model = Bag("sum").eval()
    lrp = UnifiedLRP(model, rule="zero")
    tokens, factors = lrp.attribute((IDS, weights))
    torch.testing.assert_close(tokens, expected(model, weights) / 2, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(factors, expected(model, weights) / 2, rtol=1e-12, atol=1e-14)
    assert_conserves(lrp, (IDS, weights))


BILINEAR: dict[str, dict[str, Any]] = {name: given[0] for name, given in PARAMETERS.items()}
"""Every rule of the other linear maps, with parameters."""


@pytest.mark.parametrize("signal", [0, 1])
@pytest.mark.parametrize("name", sorted(BILINEAR))
def test_bilinear_with_one_constant_factor_is_each_examples_own_matrix(name: str, signal: int) -> None:
    """The other factor is constant: z_o = sum_i (sum_j W_oij y_j) x_i + b_o, a matrix for each example."""
    torch.manual_seed(0)
    weight, bias, x, other = (torch.randn(s, dtype=torch.float64) for s in ((4, 3, 3), (4,), (2, 3), (2, 3)))

    class Product(nn.Module):
        def forward(self, t: Tensor) -> Tensor:
            pair = (t, other) if signal == 0 else (other, t)
            return functional.bilinear(*pair, weight, bias).sum(1)

    for bias_mode in MODES if name in TAKES_BIAS else ("absorb",):
        given = {} if bias_mode == "absorb" else {"bias": bias_mode}
        composite = Composite([(anything(), rule(name, **BILINEAR[name], **given))])
        lrp = UnifiedLRP(Product().eval(), composite=composite, stabilizer=0.0)
        got = lrp.attribute(x)
        assert_conserves(lrp, x)
        for n in range(2):
            own = torch.einsum("oij,j->oi" if signal == 0 else "oij,i->oj", weight, other[n])
            matrix = Matrix(own, bias, torch.ones_like(own))
            want = TWINS[name](matrix, x[n], own @ x[n] + bias, bias_mode, **BILINEAR[name])
            torch.testing.assert_close(got[n], want, rtol=1e-8, atol=1e-10)


def test_bilinear_of_two_signals_is_a_product_half_to_each() -> None:
    torch.manual_seed(0)
    weight, bias, x, y = (torch.randn(s, dtype=torch.float64) for s in ((4, 3, 2), (4,), (2, 3), (2, 2)))

    class Product(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return functional.bilinear(a, b, weight, bias).sum(1)

    lrp = UnifiedLRP(Product().eval(), rule="epsilon", epsilon=0.0)
    left, right = lrp.attribute((x, y))
    parts = torch.einsum("ni,oij,nj->nij", x, weight, y)
    torch.testing.assert_close(left, parts.sum(2) / 2)
    torch.testing.assert_close(right, parts.sum(1) / 2)
    assert_conserves(lrp, (x, y))


@pytest.mark.parametrize("alpha", [1, 2.5])
def test_rsub_gives_each_side_its_signed_part(alpha: float) -> None:
    """torch.rsub(a, b, alpha) = b - alpha a: ``R_a = -alpha a m``, ``R_b = b m``."""
    torch.manual_seed(0)
    a, b, m = (torch.randn(2, 3, dtype=torch.float64) for _ in range(3))

    class Reversed(nn.Module):
        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return (torch.rsub(left, right, alpha=alpha) * m).sum(1)

    lrp = UnifiedLRP(Reversed().eval(), rule="epsilon", epsilon=0.0)
    left, right = lrp.attribute((a, b))
    torch.testing.assert_close(left, -alpha * a * m)
    torch.testing.assert_close(right, b * m)
    assert_conserves(lrp, (a, b))


def test_rsub_from_a_number_books_the_number() -> None:
    """1 - a, a gate's complement: a keeps -a m, the constant takes m."""
    a, m = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)

    class Complement(nn.Module):
        def forward(self, t: Tensor) -> Tensor:
            return ((1 - t) * m).sum(1)

    lrp = UnifiedLRP(Complement().eval(), rule="epsilon", epsilon=0.0)
    torch.testing.assert_close(lrp.attribute(a), -a * m)
    torch.testing.assert_close(lrp.ledger(a).constant, m.sum(1))


def test_a_bilinear_map_held_constant_carries_nothing() -> None:
    layer, direct = nn.Bilinear(3, 4, 2).double(), nn.Linear(3, 2).double()
    other = torch.randn(2, 4, dtype=torch.float64)
    x = torch.randn(2, 3, dtype=torch.float64)
    held = Composite([(operation("bilinear"), "constant"), (operation("linear"), "zero")])
    found = UnifiedLRP(lambda x: layer(x, other) + direct(x), composite=held).attribute(x, target=1)
    torch.testing.assert_close(found, UnifiedLRP(direct, rule="zero").attribute(x, target=1))
