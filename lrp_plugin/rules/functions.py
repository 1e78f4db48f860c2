"""Custom autograd Functions of well-known packages, by qualified class name: none of them is imported.

A rule for one's own Function is registered the same way, ``register_rule("mine", "package.module.MyFunction",
function=True)``; the call's arguments are the signals it read, and its own backward is what ``call.native()`` has.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lrp_plugin.algebra.call import Call
from lrp_plugin.algebra.formulas import widened
from lrp_plugin.algebra.primitives import substitute
from lrp_plugin.algebra.result import Result, held
from lrp_plugin.registry import register_rule
from lrp_plugin.rules.routing import book_the_rest

GELUS = ("transformers.models.bloom.modeling_bloom.GeLUFunction",)
SOFTMAXES = (
    "transformers.models.deberta.modeling_deberta.XSoftmax",
    "transformers.models.deberta_v2.modeling_deberta_v2.XSoftmax",
    "transformers.models.sew_d.modeling_sew_d.XSoftmax",
    "entmax.activations.SparsemaxFunction", "entmax.activations.Entmax15Function",
    "entmax.root_finding.EntmaxBisectFunction", "entmax.root_finding.SparsemaxBisectFunction",
    "pytorch_tabnet.sparsemax.SparsemaxFunction", "pytorch_tabnet.sparsemax.Entmax15Function",
)  # fmt: skip


@register_rule("identity", *GELUS, function=True)
def gelu_function(call: Call) -> Tensor:
    """GELU as a Function of one entry: the secant from the origin, ``m f(x) / x``, its slope 1/2 at 0."""
    x, value = call.args[0], call.valued()
    wide = widened(x.detach())
    factor = torch.where(wide == 0, 0.5, widened(value) / torch.where(wide == 0, 1, wide))
    dtype = x.dtype
    return substitute(value, lambda m: (m * factor).to(dtype), x)


@register_rule("gradient_softmax", *SOFTMAXES, sign="nonnegative", gate=True, function=True)
def softmax_function(call: Call) -> Tensor:
    """A softmax, masked or sparse, by its own gradient, as `softmax`; the part that is lost is booked as ``other``."""
    value = call.native()
    book_the_rest(call, value, "other")
    return value  # type: ignore[no-any-return]


@register_rule("cp_lrp", *SOFTMAXES, sign="nonnegative", gate=True, function=True)
def constant_weights_function(call: Call) -> Result:
    """CP-LRP: the weights are held constant (Ali et al. 2022, eq. 9)."""
    return held(call.native())
