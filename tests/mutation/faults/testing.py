"""Faults of the laws that others test their rules with: a law that lets a broken rule pass is the worst of tests."""

from tests.mutation.fault import fault

_SEES = "testing/test_laws_see.py"
FAULTS = [
    fault("testing/laws.py", "conservation is not asked of rows", "_within(row.gap, allowed,", "_within(0 * row.gap, allowed,", _SEES),
    fault("testing/laws.py", "a gap may have any size below zero", "fine = bool((values.abs() <= allowed).all())", "fine = bool((values <= allowed).all())", _SEES),
    fault("testing/laws.py", "relevance of zero conserves", "assert bool((size > 0).all())", "assert bool((size >= 0).all())", _SEES),
    fault("testing/laws.py", "NaN is relevance", "assert all(bool(torch.isfinite(one).all()) for one in relevance)", "assert all(True for one in relevance)", _SEES),
    fault("testing/laws.py", "linear means homogeneous", "parts[0] + parts[1]", "parts[0] + parts[0]", _SEES),
    fault("testing/laws.py", "an input that was written to is not seen", "assert not moved", "assert True", _SEES),
    fault("testing/laws.py", "a hook left behind is not seen", "assert not changed", "assert True", _SEES),
    fault("testing/laws.py", "a batch is compared with itself", "alone = attribution.attribute(inputs[place : place + 1], own)",
          "alone = together[place : place + 1]", _SEES),
    fault("testing/laws.py", "shapes need not agree", "assert found.shape == expected.shape", "assert True", _SEES),
    fault("testing/laws.py", "one call is repeated by itself", "assert torch.equal(one, other)", "assert torch.equal(one, one)", _SEES),
    fault("testing/laws.py", "a second spelling may warn", "assert telling <= told", "assert True", _SEES),
    fault("testing/rule_laws.py", "a rule may change the value", "_close(explainer(network).ledger(x).output, network(x).detach()",
          "_close(network(x).detach(), network(x).detach()", _SEES),
    fault("testing/rule_laws.py", "a rule need not be additive", "2 * found[0] + found[1], found[2]", "found[2], found[2]", _SEES),
    fault("testing/rule_laws.py", "half precision is not tried", "(torch.float64, torch.float32, torch.bfloat16, torch.float16)", "(torch.float64,)", _SEES),
    fault("testing/rule_laws.py", "a rule for nothing passes", "if not wanted:", "if False:", _SEES),
    fault("testing/strategies.py", "a target may be out of range", "one = st.integers(0, classes - 1)", "one = st.integers(0, classes)", _SEES),
    fault("testing/strategies.py", "inputs are never sparse", '["signed", "nonnegative", "sparse", "constant"]', '["signed", "nonnegative", "constant"]', _SEES),
]  # fmt: skip
