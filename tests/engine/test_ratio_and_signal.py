"""The rules `ratio` and `signal` for sums and gates keep the ledger closed on real architectures."""

from __future__ import annotations

import pytest
import torch
from zoo import build, images

from lrp_plugin import Composite, UnifiedLRP, rule
from lrp_plugin.composites import linear_maps, operation
from lrp_plugin.testing import assert_conserves

NETWORKS = ("resnet50", "efficientnet_b0", "mobilenet_v3_small", "mobilenet_v3_large", "regnet_y_400mf")
GATED = NETWORKS[1:]
RULES = {
    "ratio": [(operation("add", "mul"), rule("ratio"))],
    "signal": [(operation("mul"), rule("signal"))],
    "both": [(operation("add"), rule("ratio")), (operation("mul"), rule("signal"))],
}


@pytest.mark.parametrize("name", NETWORKS)
def test_ratio_and_signal_close_the_ledger(name: str) -> None:
    """Every row and the whole to 1e-9, under epsilon in the linear maps; the rule asked for is the one that ran."""
    model, x = build(name, 64), images(name, 64, 1)
    target = int(model(x).argmax())
    for pairs in RULES.values():
        lrp = UnifiedLRP(model, composite=Composite([*pairs, (linear_maps(), rule("epsilon", epsilon=0.01))]))
        ledger = assert_conserves(lrp, x, target, allowed_other=())
        ran = {(row.operation, row.rule) for row in ledger.rows}
        present = {operation for operation, _ in ran}
        for selector, spec in pairs:
            for operation_name in ("add", "mul"):
                if operation_name in str(selector) and operation_name in present:
                    assert (operation_name, spec.name) in ran
    assert ("mul" in present) == (name in GATED)


@pytest.mark.parametrize("name", GATED)
def test_signal_gives_gates_nothing(name: str) -> None:
    """No squeeze-excitation path receives relevance; under `uniform` each does."""
    model, x = build(name, 64), images(name, 64, 1)
    target = int(torch.argmax(model(x)))
    for spec, wanted in (("signal", False), ("uniform", True)):
        composite = Composite([(operation("mul"), rule(spec)), (linear_maps(), rule("epsilon", epsilon=0.01))])
        rows = UnifiedLRP(model, composite=composite).ledger(x, target).rows
        gates = [row for row in rows if row.operation in ("sigmoid", "hardsigmoid")]
        assert gates and all((float(row.relevance_out.abs().max()) > 0) == wanted for row in gates)
