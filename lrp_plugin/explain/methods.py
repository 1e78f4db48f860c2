"""Methods by name, and which one ``"auto"`` stands for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from lrp_plugin.attribution import RULES, UnifiedLRP
from lrp_plugin.composites import Composite, epsilon_gamma_box, list_composites
from lrp_plugin.composites.ready import READY
from lrp_plugin.errors import unknown
from lrp_plugin.gradients import METHODS, AttributionMethod, build_method
from lrp_plugin.kinds import checked
from lrp_plugin.registry import registry

GRADIENTS = tuple(name for name in METHODS if name != "lrp")
Bounds = tuple[Any, Any]

FAMILIES = {
    "recurrent": "recurrent",
    "vision transformer": "attnlrp_gamma",
    "transformer": "attnlrp",
    "convolutional": "epsilon_plus_flat",
    "dense": "epsilon",
}
"""What ``method="auto"`` stands for, by family; the reasons are in docs/choosing-a-rule.md."""


def method_names() -> list[str]:
    """Every name a method can have: rules of linear maps, composites, gradient methods."""
    return [*RULES, *READY, "epsilon_gamma_box", *GRADIENTS]


@checked
def family_of(operations: Iterable[str]) -> str:
    """The family of a network that runs these operations in this order: a key of `FAMILIES`.

    Attention decides before recurrence, recurrence before convolutions: a transformer's patch embedding and a speech
    network's first layers are convolutions too.
    """
    seen = list(operations)
    products = {"matmul", "bmm", "baddbmm", "einsum"}
    written_out = "softmax" in seen and any(one in products for one in seen[seen.index("softmax") :])
    if "scaled_dot_product_attention" in seen or written_out:
        return "vision transformer" if "conv2d" in seen else "transformer"
    if any(one.startswith(("lstm", "gru", "rnn")) for one in seen):
        return "recurrent"
    if any(one.startswith("conv") for one in seen):
        return "convolutional"
    return "dense"


def automatic(model: nn.Module | Callable[..., Any], inputs: Any, **call: Any) -> str:
    """The method ``"auto"`` stands for on this model and these inputs.

    Args:
        model: The model.
        inputs: As `UnifiedLRP.plan` takes them.
        **call: Further arguments of `UnifiedLRP.plan`.
    """
    output = call.pop("output", None)
    plan = UnifiedLRP(model, output=output).plan(inputs, **call)
    return FAMILIES[family_of(str(site.operation) for site, _ in plan.entries)]


def lrp_for(
    model: nn.Module | Callable[..., Any],
    method: str | Composite,
    *,
    bias: str = "absorb",
    bounds: Bounds | None = None,
    output: Any = None,
    **options: Any,
) -> UnifiedLRP:
    """`UnifiedLRP` for the name of a rule or of a ready composite, or for a composite.

    Args:
        model: The model.
        method: A rule of linear maps, a ready composite's name, or a `Composite`.
        bias: ``"absorb"``, ``"ignore"`` or ``"distribute"``: what becomes of the relevance of biases.
        bounds: The smallest and the greatest value an input can take; ``epsilon_gamma_box`` needs them.
        output: See `UnifiedLRP`.
        **options: Further options of `UnifiedLRP`, such as ``epsilon`` and ``strict``.

    Raises:
        ValueError: An unknown name, a bias mode that the method does not take, or missing bounds.
    """
    told: dict[str, Any] = {} if bias == "absorb" else {"bias": bias}
    if isinstance(method, Composite):
        return UnifiedLRP(model, composite=method, output=output, **told, **options)
    if method == "epsilon_gamma_box":
        if bounds is None:
            raise ValueError(
                "epsilon_gamma_box needs the input's range, which is unknown here; give bounds=(low, high)"
            )
        return UnifiedLRP(model, composite=epsilon_gamma_box(*bounds, **told), output=output, **options)
    if method in READY:
        if told and not takes_bias(method):
            takes = [name for name in (*RULES, *READY) if takes_bias(name)]
            raise ValueError(f"{method} takes no bias={bias!r}; those that do are {', '.join(takes)}")
        return UnifiedLRP(model, composite=method, output=output, **told, **options)
    check_name(method)
    return UnifiedLRP(model, method, output=output, **told, **options)


def takes_bias(method: str) -> bool:
    """Whether a rule or ready composite can hand on what biases would take."""
    if method in READY:
        return "bias" in inspect.signature(READY[method]).parameters
    rule = registry.find("linear", method)
    return method == "epsilon_gamma_box" or (rule is not None and "bias" in rule.parameters)


def gradient_for(
    model: nn.Module, method: str, *, output: Callable[..., Any] | None = None, **options: Any
) -> AttributionMethod:
    """A gradient method by name; `output` takes the logits of what the model returns."""
    forward = None if output is None else (lambda inputs: output(model(inputs)))
    return build_method(method, model, forward=forward, **options)


def described_methods() -> dict[str, dict[str, str]]:
    """Every method's name with one line of what it does, by kind: rules, composites, gradient methods."""
    rules = {}
    for name in RULES:
        rule = registry.find("linear", name)
        rules[name] = rule.summary if rule is not None else ""
    return {
        "rules, for every linear map and convolution": rules,
        "composites, rules by place": list_composites(),
        "gradient methods, for comparison": dict(_GRADIENT_LINES),
    }


_GRADIENT_LINES = {
    "saliency": "The gradient's magnitude (Simonyan et al. 2014): how much, not for or against.",
    "smoothgrad": "Saliency averaged over noisy copies of the input (Smilkov et al. 2017).",
    "input_x_gradient": "Input times gradient (Shrikumar et al. 2016).",
    "integrated_gradients": "The gradient averaged along a path from a baseline (Sundararajan et al. 2017).",
    "gradcam": "Where the last convolution's features speak for the class (Selvaraju et al. 2017); coarse.",
    "guided_gradcam": "Grad-CAM times guided backprop.",
    "occlusion": "How the score falls when a square is covered (Zeiler and Fergus 2014); many passes.",
}


def check_name(method: str) -> None:
    """Raises ``ValueError`` for a name no method has; says which are nearest."""
    if method not in method_names() and registry.find("linear", method) is None:
        raise ValueError(unknown("method", method, method_names()))
