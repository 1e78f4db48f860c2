"""For test suites: laws of an explanation, and Hypothesis strategies to try them on.

Three lines test one's own model, layer or rule::

    lrp = UnifiedLRP(model, rule="zplus")
    assert_conserves(lrp, images, target=0)
    assert_model_untouched(lrp, images, target=0)

Strategies for what must change no explanation: `lrp_plugin.testing.surroundings` (hooks, wrappers, masks) and
`lrp_plugin.testing.spellings` (in place, writes into buffers, cast columns, exported modules, caches).

Needs hypothesis (extra ``test``); the package itself does not import this module.
"""

from lrp_plugin.testing.laws import (
    assert_conserves,
    assert_equals_gradient_x_input,
    assert_independent_of_batch,
    assert_linear_in_output,
    assert_model_untouched,
    assert_repeatable,
    assert_same_as,
)
from lrp_plugin.testing.networks import Graph, GraphNetwork, Step
from lrp_plugin.testing.rule_laws import LAWS, RuleCase, check_rule
from lrp_plugin.testing.strategies import explanations, graphs, inputs, layers, networks, targets

__all__ = [
    "LAWS", "Graph", "GraphNetwork", "RuleCase", "Step", "assert_conserves", "assert_equals_gradient_x_input",
    "assert_independent_of_batch", "assert_linear_in_output", "assert_model_untouched", "assert_repeatable",
    "assert_same_as", "check_rule", "explanations", "graphs", "inputs", "layers", "networks", "targets",
]  # fmt: skip
