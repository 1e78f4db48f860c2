"""Add a rule of one's own, for a module of one's own, and check that it keeps every law. Run: python examples/add_a_rule.py"""

import torch
from torch import Tensor, nn

from lrp_plugin import UnifiedLRP, registry
from lrp_plugin.primitives import Call, substitute


class Swish(nn.Module):
    """x * sigmoid(beta x): many calls inside, one operation for LRP."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.7 * x)


mine = registry.copy()  # seen by nobody else; `register_rule` would add to everybody's


@mine.register("secant", Swish, port="keeps")  # a module type, or a torch operation's name such as "relu"
def secant(call: Call) -> Tensor:
    """All relevance passes: the multiplier is scaled by f(x) / x. R = x * m is kept, entry by entry."""
    x = call.args[0]
    value = call.native().detach()  # call.function is the module's own forward
    return substitute(value, lambda m: m * value / x.detach(), x)  # same value, changed backward


model = nn.Sequential(nn.Linear(4, 8, bias=False), Swish(), nn.Linear(8, 2, bias=False)).double().eval()
lrp = UnifiedLRP(model, rule="epsilon", epsilon=1e-9, registry=mine, strict=True)
inputs = torch.randn(3, 4, dtype=torch.float64)
print(lrp.plan(inputs))
print(lrp.ledger(inputs, target=0).table())  # out = in in every row: the rule conserves
