"""Every registered pair of an operation and a rule has its test: linear maps are run here, others name theirs.

A pair that is registered without a case here fails.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from linear_cases import Case, Product, relevance
from test_bags_and_bilinear import BILINEAR
from test_linear_rules import MODES, PARAMETERS, TAKES_BIAS, expected
from torch import Tensor, nn

from lrp_plugin import registry


class Batched(nn.Module):
    """bmm, baddbmm (with a bias) or mv with a constant weight; in and out of one size where that can be."""

    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.spelling = spelling
        self.weight = nn.Parameter(torch.randn(4) if spelling == "mv" else torch.randn(4, 4))
        self.bias = nn.Parameter(torch.randn(4)) if spelling == "baddbmm" else None

    def forward(self, x: Tensor) -> Tensor:
        if self.spelling == "mv":
            return torch.mv(x, self.weight)[:, None]
        weight = self.weight.to(x.dtype).expand(x.shape[0], 4, 4)
        if self.bias is None:
            return torch.bmm(x, weight)
        return torch.baddbmm(self.bias.to(x.dtype).expand(x.shape[0], 3, 4), x, weight)


LINEAR_MAPS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(4, 4), (4,)),
    "conv1d": (lambda: nn.Conv1d(2, 2, 3, padding=1), (2, 5)),
    "conv2d": (lambda: nn.Conv2d(2, 2, 3, padding=1), (2, 4, 4)),
    "conv3d": (lambda: nn.Conv3d(2, 2, 3, padding=1), (2, 3, 3, 3)),
    "conv_transpose1d": (lambda: nn.ConvTranspose1d(2, 2, 3, padding=1), (2, 5)),
    "conv_transpose2d": (lambda: nn.ConvTranspose2d(2, 2, 3, padding=1), (2, 4, 4)),
    "conv_transpose3d": (lambda: nn.ConvTranspose3d(2, 2, 3, padding=1), (2, 3, 3, 3)),
    **{name: (lambda name=name: Product(name, 4, 4, True), (4,)) for name in ("addmm", "matmul", "mm", "einsum")},
    **{name: (lambda name=name: Batched(name), (3, 4)) for name in ("bmm", "baddbmm")},
    "mv": (lambda: Batched("mv"), (4,)),
}  # fmt: skip
"""A map of each spelling, and the shape of one example."""
SIZE_CHANGES = ("mv",)
"""Maps that no rule which needs equal shapes fits."""

NAMED = {
    **{("bilinear", name): "test_bags_and_bilinear" for name in BILINEAR},
    **{("bilinear", name): "test_sums_and_products" for name in ("pass", "identity")},
    **{
        (sum_, name): "test_sums_and_products"
        for sum_ in ("add", "sub")
        for name in ("epsilon", "ratio", "equal", "skip", "branch")
    },
    ("bilinear", "constant"): "test_bags_and_bilinear",
    ("rsub", "epsilon"): "test_bags_and_bilinear",
    ("add_relu", "epsilon"): "test_sums_and_products",
    **{("mul", name): "test_sums_and_products" for name in ("uniform", "ratio", "signal", "gradient")},
    **{(f"max_pool{n}d", name): "test_sums_and_products" for n in (1, 2, 3) for name in ("winner_take_all", "proportional")},
    **{(f"adaptive_max_pool{n}d", "winner_take_all"): "test_sums_and_products" for n in (1, 2, 3)},
    ("embedding_bag", "sum"): "test_bags_and_bilinear",
}  # fmt: skip
"""Pairs of the other operations, and the file beside this one whose tests run them."""


def linear_pairs() -> list[tuple[str, str]]:
    return [(operation, name) for operation in LINEAR_MAPS for name in registry.names(operation)]


@pytest.mark.parametrize(
    ("operation", "name", "mode"),
    [(*pair, mode) for pair in linear_pairs() for mode in (MODES if pair[1] in TAKES_BIAS else MODES[:1])],
)
def test_every_spelling_of_a_linear_map_meets_the_twin(operation: str, name: str, mode: str) -> None:
    """Each rule on each operation, with each bias mode it takes, relative 1e-8; pass gives entry by entry."""
    torch.manual_seed(0)
    make, shape = LINEAR_MAPS[operation]
    case = Case(make(), shape, False, None, False)
    x = torch.randn(2, *shape, dtype=torch.float64)
    if name == "constant":
        with pytest.raises(ValueError, match="does not depend on the explained input"):
            relevance(case, x, name)
        return
    if name in ("pass", "identity"):
        if operation in SIZE_CHANGES:
            with pytest.raises(ValueError, match="rule 'pass'"):
                relevance(case, x, name)
            return
        want = (case.layer(x) * case.multiplier).detach()
        torch.testing.assert_close(relevance(case, x, name), want, rtol=1e-8, atol=1e-10)
        return
    assert name in PARAMETERS, f"rule {name!r} of {operation!r} has no parameters in test_linear_rules, and no twin"
    parameters = PARAMETERS[name][0]
    given = {} if name not in TAKES_BIAS else {"bias": mode}
    want = expected(case, x, name, mode, parameters)
    torch.testing.assert_close(relevance(case, x, name, **parameters, **given), want, rtol=1e-8, atol=1e-9)


def test_no_pair_is_left_out_and_none_left_over() -> None:
    operations = {*LINEAR_MAPS, *(operation for operation, _ in NAMED)}
    known = {(operation, name) for operation in operations for name in registry.names(operation)}
    tested = set(NAMED) | set(linear_pairs())
    assert known == tested, (
        f"pairs without a test: {sorted(known - tested)}; tests of no pair: {sorted(tested - known)}. A rule of linear maps "
        "needs its line in PARAMETERS of test_linear_rules.py, another pair its line in NAMED here"
    )
    linear = {rule.operation for rule in registry if rule.name == "zplus"}
    assert linear == {*LINEAR_MAPS, "bilinear"}, "an operation with a linear map's rules needs a map in LINEAR_MAPS"


def test_the_files_named_test_their_pairs() -> None:
    """Each file mentions the operation (or its operator) and the rule by name."""
    written = {"add": "a + b", "sub": "a - b", "mul": "x * y"}
    for (operation, name), file in NAMED.items():
        text = (Path(__file__).parent / f"{file}.py").read_text()
        assert written.get(operation, operation) in text, (operation, file)
        made = operation == "bilinear" and name in BILINEAR  # of PARAMETERS
        assert made or f'"{name}"' in text or operation in ("rsub", "embedding_bag"), (operation, name, file)
