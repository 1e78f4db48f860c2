"""Every rule keeps every law of `lrp_plugin.testing.check_rule`; and the limits that tie the rules together."""

from __future__ import annotations

import pytest
import torch
from linear_cases import Case, batch_norm, relevance
from test_linear_rules import MODES, PARAMETERS, TAKES_BIAS
from torch import Tensor, nn

from lrp_plugin import registry, rule
from lrp_plugin.algebra.primitives import scale
from lrp_plugin.composites import RuleSpec
from lrp_plugin.primitives import Call
from lrp_plugin.testing import check_rule

SIGNED = tuple(name for name in TAKES_BIAS if name != "lrp0")  # another name of "zero"
SPECS = [
    *(rule(name, bias=mode) for name in SIGNED for mode in MODES),
    *(rule(name, **given[0]) for name, given in PARAMETERS.items() if name not in TAKES_BIAS),
    rule("epsilon", epsilon=0.1, relative=True), rule("ratio"), rule("equal"), rule("signal"),
    rule("winner_take_all"), rule("proportional"), rule("affine"), rule("affine", bias="distribute"), rule("native"),
]  # fmt: skip
ELEMENTWISE = ("relu6", "sigmoid", "gelu", "layer_norm", "softplus")


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_rule_keeps_every_law(spec: RuleSpec) -> None:
    only = "conv2d" if spec.parameters.get("bias") in ("ignore", "distribute") and spec.name in SIGNED else None
    check_rule(spec, operation=only, examples=2)


@pytest.mark.parametrize("operation", ELEMENTWISE)
@pytest.mark.parametrize("mode", ["absorb", "distribute"])
def test_identity_keeps_every_law(operation: str, mode: str) -> None:
    check_rule(rule("identity", bias=mode), operation=operation, examples=2)


def test_a_broken_rule_is_named_with_its_case_ready_to_paste() -> None:
    """A rule that forgets to book half of the relevance breaks the ledger's law; the printed case repeats it."""
    mine = registry.copy()

    @mine.register("forgets", "linear")
    def forgets(call: Call) -> Tensor:
        """Half of the relevance is lost."""
        return scale(call.native(), 0.5)

    with pytest.raises(AssertionError, match=r"breaks the law 'ledger_closes'") as caught:
        check_rule("forgets", registry=mine, examples=4)
    pasted = next(line for line in str(caught.value).splitlines() if "RuleCase(operation" in line)
    assert pasted.strip().endswith(".check('ledger_closes', rule('forgets'))")


def test_a_rule_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="no layers to try rule 'attnlrp'"):
        check_rule("attnlrp")


def case(before: bool, bias: bool = True) -> tuple[Case, Tensor]:
    torch.manual_seed(3)
    made = Case(nn.Conv2d(2, 3, 3, padding=1, bias=bias), (2, 4, 4), before, batch_norm(3, 2) if bias else None, False)
    return made, torch.randn(2, 2, 4, 4, dtype=torch.float64)


def assert_same(left: Tensor, right: Tensor, tolerance: float) -> None:
    assert (left - right).abs().max() <= tolerance * right.abs().max()


@pytest.mark.parametrize("before", [False, True])
def test_gamma_zero_is_epsilon(before: bool) -> None:
    made, x = case(before, bias=False)
    assert_same(
        relevance(made, x, "gamma", gamma=0.0, stabilizer=1e-3), relevance(made, x, "epsilon", epsilon=1e-3), 1e-9
    )


def test_montavons_gamma_tends_to_zplus_on_nonnegative_input() -> None:
    """For units that have a positive contribution: without one z+ has no receiver and gamma is epsilon."""
    torch.manual_seed(0)
    made, x = Case(nn.Linear(24, 5), (24,), True, None, False), torch.randn(2, 24, dtype=torch.float64)
    assert_same(relevance(made, x, "gamma_montavon", gamma=1e8), relevance(made, x, "zplus"), 1e-6)


@pytest.mark.parametrize("before", [False, True])
def test_generalized_gamma_tends_to_zplus_above_zero_and_zminus_below(before: bool) -> None:
    """z- is z+ of the map with every weight negated."""
    made, x = case(before, bias=False)
    z = made.layer(x.clamp(min=0) if before else x).detach()
    whole = made.multiplier
    made.multiplier = whole * (z >= 0)
    expected = relevance(made, x, "zplus")
    made.multiplier = whole * (z < 0)
    with torch.no_grad():
        made.layer.weight.neg_()
        made.multiplier.neg_()  # so that the relevance of every unit stays what it was
    expected = expected + relevance(made, x, "zplus")
    with torch.no_grad():
        made.layer.weight.neg_()
    made.multiplier = whole
    assert_same(relevance(made, x, "gamma", gamma=1e8), expected, 1e-6)


def test_alpha_one_beta_zero_is_zplus() -> None:
    made, x = case(before=False)
    assert torch.equal(relevance(made, x, "alphabeta", alpha=1.0, beta=0.0), relevance(made, x, "zplus"))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_alphabeta_with_an_empty_side_falls_back_and_conserves(sign: float) -> None:
    """All contributions of one sign: the side that is there takes everything, once."""
    made, x = case(before=False, bias=False)
    with torch.no_grad():
        made.layer.weight.abs_().mul_(sign)
    x = x.abs()
    total = (made.layer(x) * made.multiplier).sum()
    assert_same(relevance(made, x, "alphabeta", stabilizer=1e-12).sum(), total.detach(), 1e-9)


def test_flat_ignores_the_inputs_values() -> None:
    """The same relevance arriving, other inputs of the same sum: the same map."""
    torch.manual_seed(0)
    made = Case(nn.Linear(4, 1, bias=False), (4,), False, None, False)
    with torch.no_grad():
        made.layer.weight.fill_(1.0)
    one, other = torch.tensor([[1.0, 2.0, 3.0, 4.0]]).double(), torch.tensor([[10.0, 0.0, 0.0, 0.0]]).double()
    made.multiplier = made.multiplier[:1]
    assert torch.equal(relevance(made, one, "flat"), relevance(made, other, "flat"))
