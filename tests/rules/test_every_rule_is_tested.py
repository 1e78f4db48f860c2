"""One line per rule: a registered (operation, rule) pair of linear maps, sums, products and pools without one fails."""

from __future__ import annotations

import pytest
from test_linear_rules import PARAMETERS

from lrp_plugin import registry

OPERATIONS = (
    "linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "addmm",
    "baddbmm", "matmul", "mm", "bmm", "mv", "einsum", "bilinear", "add", "sub", "rsub", "add_relu",
    "mul", "max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d",
)  # fmt: skip
TESTED = {
    **dict.fromkeys(PARAMETERS, "test_linear_rules"),
    "pass": "test_sums_and_products", "identity": "test_sums_and_products",
    "epsilon": "test_linear_rules, test_sums_and_products",
    "ratio": "test_sums_and_products", "equal": "test_sums_and_products",
    "skip": "test_sums_and_products", "branch": "test_sums_and_products",
    "uniform": "test_linear_rules, test_sums_and_products", "signal": "test_sums_and_products",
    "winner_take_all": "test_rule_laws", "proportional": "test_sums_and_products",
}  # fmt: skip


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_rule_of_the_operation_is_tested(operation: str) -> None:
    missing = [name for name in registry.names(operation) if name not in TESTED]
    assert not missing, f"rules {missing} of {operation!r} have no test: write one and add its line to TESTED"


def test_no_line_is_left_over() -> None:
    known = {name for operation in OPERATIONS for name in registry.names(operation)}
    assert set(TESTED) <= known
