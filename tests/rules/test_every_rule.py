"""Every registered pair of an operation and a rule is run, and gives what the rule's name promises.

A pair without a call, or a rule without a promise, fails: a new rule is written into `PROMISES` (or, for linear maps, given
its twin in test_every_rule_is_tested). A pair that is lost fails `COUNTS`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from test_every_rule_is_tested import LINEAR_MAPS
from torch import Tensor

from lrp_plugin import Composite, UnifiedLRP, registry, rule
from lrp_plugin.composites import operation as operation_named
from lrp_plugin.rules.recurrent import CELLS, SEQUENCES

pytest.importorskip("expecttest", reason="torch's own table of samples needs it")
from operations import OneCall, calls, weighted

COARSE = {"float": 1e-5, "half": 2e-2, "bfloat16": 1e-1}
"""Casts round: relative tolerances."""
ELSEWHERE = {
    "cuda": "there is no GPU", "add_relu": "test_sums_and_products", "long": "test_cast_columns", "int": "test_cast_columns",
    "short": "test_cast_columns", "byte": "test_cast_columns", "char": "test_cast_columns", "lookup": "test_cast_columns",
    "one_hot": "test_cast_columns", "deform_sample": "test_new_operations", "nll_loss_nd": "test_new_operations",
    "nll_loss2d": "test_new_operations", "max_unpool3d": "torch's sample writes one place twice",
    "dropout1d": "transparent in evaluation", "feature_dropout": "transparent in evaluation",
}  # fmt: skip
"""Operations that the calls do not reach, and where they are run or why not."""


def gradient_times_input(call: OneCall, x: Tensor) -> Tensor:
    held = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(call(held).sum(), held)
    return x * gradient


def nothing(call: OneCall, x: Tensor) -> Tensor:
    """What goes past the operation alone."""
    held = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(weighted(held), held)
    return x * gradient


def entry_by_entry(call: OneCall, x: Tensor) -> Tensor | None:
    """``(f(x) - f(0)) m`` for a function of one entry; None where the operation is none."""
    value = call.value(x)
    if not isinstance(value, Tensor) or value.numel() != x.numel():
        return None
    multiplier = torch.linspace(-1.3, 1.7, value.numel(), dtype=torch.float64)
    change = value.reshape(-1) - call.value(torch.zeros_like(x)).reshape(-1)
    return nothing(call, x) + (change * multiplier)[None]


def conserved(call: OneCall, x: Tensor) -> None:
    """Nothing is promised of a single entry here: the rule meets a twin elsewhere; value and account are held."""
    return


PROMISES: dict[str, Callable[[OneCall, Tensor], Tensor | None]] = {
    "native": gradient_times_input, "gradient": gradient_times_input, "gradient_softmax": gradient_times_input,
    "winner_take_all": gradient_times_input, "constant": nothing, "cp_lrp": nothing, "identity": entry_by_entry,
    "epsilon": gradient_times_input, "equal": gradient_times_input, "ratio": gradient_times_input,
    **dict.fromkeys(("affine", "uniform", "signal", "proportional", "attnlrp", "sum", "skip", "branch"), conserved),
    **dict.fromkeys(("guided_backprop", "deconvnet", "epsilon_gate", "gradient_gate"), conserved),
}  # fmt: skip
"""What a rule gives on one signal among constants."""
COUNTS = {
    "affine": 1, "alphabeta": 15, "attnlrp": 1, "branch": 2, "constant": 26, "cp_lrp": 11, "deconvnet": 1,
    "epsilon": 19, "equal": 2, "excitation_backprop": 15, "flat": 15, "gamma": 15, "gamma_montavon": 15,
    "gradient": 19, "gradient_softmax": 11, "guided_backprop": 1, "identity": 73, "native": 211, "pass": 15,
    "proportional": 3, "ratio": 11, "signal": 9, "skip": 2, "sum": 4, "uniform": 35, "winner_take_all": 12,
    "wsquare": 15, "zbox": 15, "zero": 15, "lrp0": 15, "zplus": 15,
}  # fmt: skip
"""How many operations have a rule of each name."""
HOMOGENEOUS_OF_TWO = ("var", "cov")
"""Half the gradient: identity is not entry by entry there."""
NORMS = ("layer_norm", "rms_norm", "group_norm", "instance_norm", "normalize", "local_response_norm")


def pairs() -> list[tuple[str, str]]:
    known = [(found.operation, found.name) for found in registry if isinstance(found.operation, str)]
    return [(place, name) for place, name in known if place not in (*LINEAR_MAPS, "bilinear") and "." not in place]


@pytest.mark.parametrize(("place", "name"), pairs())
def test_a_rule_gives_what_its_name_promises(place: str, name: str) -> None:
    if place in ELSEWHERE:
        pytest.skip(ELSEWHERE[place])
    assert name in PROMISES, f"rule {name!r} of {place!r} has no promise: write one into PROMISES"
    assert place in calls(), f"operation {place!r} has no call: write one into tests/rules/operations.py"
    call = calls()[place]
    x = call.entries()
    lrp = UnifiedLRP(call.eval(), composite=Composite([(operation_named(place), rule(name))]), strict=True)
    torch.manual_seed(0)
    output = call(x)
    torch.manual_seed(0)
    ledger = lrp.ledger(x, target=0)
    mine = [row for row in ledger.rows if row.operation == place]
    assert mine and mine[0].rule.startswith(name), f"the rule did not run: {[row.operation for row in ledger.rows]}"
    bound = COARSE.get(place, 1e-9)
    torch.manual_seed(0)
    found = lrp.attribute(x, target=0)
    size = max(1.0, float(found.abs().sum()), float(output.abs().max()))
    assert float((ledger.output - output.detach().reshape(-1)).abs().max()) <= bound * size, "another value"
    for row in (ledger, *ledger.rows):
        assert float(row.gap.abs().max()) <= 10 * bound * size, f"the account of {row} does not close"
    if place in HOMOGENEOUS_OF_TWO or place in NORMS:
        return
    torch.manual_seed(0)
    expected = None if place in (*SEQUENCES, *CELLS) else PROMISES[name](call, x)
    if expected is not None:
        torch.testing.assert_close(found, expected, rtol=bound, atol=bound * size)


def counts() -> dict[str, int]:
    return dict(sorted(Counter(found.name for found in registry).items()))


def test_no_pair_is_lost() -> None:
    """A registration that is taken away, of one operation even, changes a count; one that is added is entered here."""
    found = counts()
    changed = {name: found.get(name) for name in {*found, *COUNTS} if found.get(name) != COUNTS.get(name)}
    assert not changed, f"write into COUNTS what is meant of {changed}"


def test_a_rule_without_a_promise_fails() -> None:
    """The README's own example, as if it were the package's."""
    with pytest.raises(AssertionError, match="rule 'halved' of 'relu' has no promise"):
        test_a_rule_gives_what_its_name_promises("relu", "halved")


def test_a_rule_that_returns_its_input_is_refused() -> None:
    mine = registry.copy()
    mine.register("same", "relu", "contiguous")(lambda call: call["input"])
    x = torch.tensor([[1.0, -2.0, 3.0]])
    same = {"composite": Composite([(operation_named("relu", "contiguous"), "same")]), "registry": mine}
    with pytest.raises(ValueError, match="rule for operation 'relu' returned its input"):
        UnifiedLRP(lambda x: x.relu().sum(1), **same).attribute(x)
    torch.testing.assert_close(UnifiedLRP(lambda x: x.contiguous().sum(1), **same).attribute(x), x)


@pytest.mark.parametrize("alpha", [1.0, 3.0])
def test_alpha_alone_says_beta(alpha: float) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(4, 2)
    x = torch.randn(2, 4)
    expected = UnifiedLRP(layer, rule="alphabeta", alpha=alpha, beta=alpha - 1).attribute(x, target=0)
    composite = Composite([(operation_named("linear"), rule("alphabeta", alpha=alpha))])
    for lrp in (UnifiedLRP(layer, rule="alphabeta", alpha=alpha), UnifiedLRP(layer, composite=composite)):
        torch.testing.assert_close(lrp.attribute(x, target=0), expected, rtol=0, atol=0)
