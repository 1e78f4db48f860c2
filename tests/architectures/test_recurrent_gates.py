"""Rules that give a gate a part of the relevance: literal twins, cells by hand, the ledger."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recurrent_twins import HandWritten, gru_relevance_of_gates, lstm_relevance_of_gates
from test_recurrent import KINDS, Cells, Forms, Weighted, kernel, sizes

from lrp_plugin import Composite, UnifiedLRP, rule
from lrp_plugin.composites import linear_maps, operation, recurrent
from lrp_plugin.rules.gates import PRODUCTS

TWINS = {"lstm": lstm_relevance_of_gates, "gru": gru_relevance_of_gates}


class Outputs(torch.nn.Module):
    """A recurrent module's output sequence alone."""

    def __init__(self, model: torch.nn.RNNBase) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The output sequence."""
        return self.model(x)[0]


@given(sizes, st.sampled_from([0.0, 0.05]), st.sampled_from(sorted(TWINS)), st.sampled_from(PRODUCTS))
def test_kernel_meets_its_literal_twin(
    size: tuple[int, int, int, int], epsilon: float, kind: str, products: str
) -> None:
    features, hidden, steps, seed = size
    model = kernel(kind, seed, features, hidden)
    x, weights = torch.randn(1, steps, features).double(), torch.randn(steps, hidden).double()
    composite = Composite([(operation(kind), rule(products, epsilon=epsilon))])
    found = UnifiedLRP(Weighted(Outputs(model), weights), composite=composite).attribute(x)
    with torch.no_grad():
        wanted = TWINS[kind](products, x[0], list(model.parameters()), model(x)[0][0] * weights, epsilon)
    torch.testing.assert_close(found[0], wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_kernel_equals_cells_by_hand_and_torch_s_cells(kind: str, products: str) -> None:
    model = kernel(kind, num_layers=1, bidirectional=False)
    x, weights = torch.randn(2, 5, 3).double(), torch.randn(5, 4).double()
    pairs = [(linear_maps(), rule("zero")), (operation("mul"), rule(products))]
    if products == "gradient":
        pairs.append((operation("sigmoid"), rule("gradient")))
    pairs.append((operation(kind, f"{kind}_cell"), rule(products)))
    composite = Composite(pairs)
    fused = UnifiedLRP(Weighted(model, weights), composite=composite, strict=True).attribute(x)
    for other in (HandWritten(model), Cells(model)):
        found = UnifiedLRP(Weighted(other, weights), composite=composite, strict=True)
        torch.testing.assert_close(fused, found.attribute(x), rtol=1e-8, atol=1e-8)
        assert found.ledger(x).gap.abs().max() < 1e-9


@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize("kind", KINDS)
def test_ledger_closes(kind: str, products: str) -> None:
    """Projected, packed, in both directions; what a gate's constants take, or its gradient adds, has its column."""
    model = kernel(kind, num_layers=2, bidirectional=True)
    composite = Composite([(operation(model.mode.lower()), rule(products, epsilon=0.05))])
    lrp = UnifiedLRP(Forms(model, [3, 5, 2]).eval(), composite=composite, strict=True)
    ledger = lrp.ledger(torch.randn(3, 5, 3).double(), target=0)
    assert ledger.gap.abs().max() < 1e-9
    gated = kind[:3] != "rnn" and products != "signal"
    assert (ledger.constant.abs().max() > 1e-6) == (gated and products != "gradient")
    assert (ledger.other.abs().max() > 1e-6) == (gated and products == "gradient")


def test_a_gate_of_no_weight_gets_nothing() -> None:
    """The gates' own weights at zero: their pre-activations are biases, and uniform leaves the input half of ``signal``."""
    model = kernel("lstm", features=2, hidden=3)
    with torch.no_grad():
        for name in ("weight_ih_l0", "weight_hh_l0"):
            parameter = getattr(model, name)
            parameter[:6], parameter[9:] = 0, 0
            parameter.mul_(1 if name == "weight_ih_l0" else 0)
    x, weights = torch.randn(1, 1, 2).double(), torch.randn(1, 3).double()
    found = {
        name: UnifiedLRP(
            Weighted(model, weights), composite=Composite([(operation("lstm"), rule(name))])
        ).attribute(x)
        for name in ("signal", "uniform")
    }  # fmt: skip
    torch.testing.assert_close(found["uniform"], found["signal"] / 4)


def test_unknown_products_are_named() -> None:
    with pytest.raises(ValueError, match="legal are signal, uniform, ratio, gradient"):
        recurrent("gates")
