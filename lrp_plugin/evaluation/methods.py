"""Any explanation as ``(inputs, target) -> relevance``, and how it is made anew for another model."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lrp_plugin.attribution import RULES, UnifiedLRP
from lrp_plugin.attribution.reach import leave_out
from lrp_plugin.composites import Composite, epsilon_gamma_box
from lrp_plugin.composites.ready import READY
from lrp_plugin.errors import unknown
from lrp_plugin.gradients import METHODS, build_method

Explain = Callable[[Tensor, Any], Tensor]
Builder = Callable[[Any], Explain]

RANDOM = "random"
"""The floor: a map of random numbers."""

BASELINES = ("saliency", "input_x_gradient", "integrated_gradients", "gradcam")
"""What a rule is held against."""


def method_names() -> list[str]:
    """Every name `builder` knows: gradient methods, LRP rules, ready composites, the floor."""
    return [*(name for name in METHODS if name != "lrp"), *RULES, *READY, "epsilon_gamma_box", RANDOM]


def builder(method: Any, model: Any, bounds: tuple[Any, Any] | None = None) -> Builder:
    """What makes the explanation for a model.

    Args:
        method: A name of `method_names`; a `Composite`; anything with ``attribute(inputs, target=...)`` (a Captum
            ``Attribution``, an explainer of this package), which stays with the model it was made for; a function
            ``(inputs, target) -> relevance``, likewise; or what makes one of these from a model (a Captum class,
            ``lambda model: UnifiedLRP(model, gamma=0.1)``).
        model: The model that is explained.
        bounds: The least and greatest value of an input entry, for ``"epsilon_gamma_box"``.

    Raises:
        ValueError: For an unknown name. TypeError: For anything else.
    """
    if isinstance(method, str):
        return _named(method, bounds)
    if isinstance(method, Composite):
        return lambda given: explaining(UnifiedLRP(given, composite=method))
    if isinstance(method, type) or not callable(method) or hasattr(method, "attribute"):
        if isinstance(method, type) and hasattr(method, "attribute"):
            return lambda given: explaining(method(given))
        if hasattr(method, "attribute"):
            return _bound(explaining(method), model)
        raise TypeError(f"a method is a {type(method).__name__}; give a name, an explainer, or a function")
    if _takes_inputs(method):
        return _bound(explaining(method), model)
    return lambda given: explaining(method(given))


def _bound(explain: Explain, model: Any) -> Builder:
    def build(given: Any) -> Explain:
        if given is not model:
            raise ValueError(
                "this method was made for one model and cannot be made for another (a randomized copy); give what makes "
                "it, as lambda model: UnifiedLRP(model)"
            )
        return explain

    return build


def _takes_inputs(function: Callable[..., Any]) -> bool:
    """Whether a callable is ``(inputs, target)`` and not what makes one from a model."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    places = [one for one in inspect.signature(function).parameters.values() if one.kind in kinds]
    needed = [one for one in places if one.default is inspect.Parameter.empty]
    if len(needed) == 2 or (len(places) > 1 and places[1].name == "target"):
        return True
    if len(needed) == 1:
        return False
    raise TypeError(
        f"{function} takes {len(needed)} arguments; give (inputs, target) -> relevance, or model -> an explainer"
    )


def explaining(explainer: Any) -> Explain:
    """An explainer or a function as a function of inputs and target that returns one detached tensor."""
    call = getattr(explainer, "attribute", None)
    if isinstance(explainer, UnifiedLRP):
        leave_out(explainer.session)  # dozens of them are measured, and the figures say what is asked

    def explain(inputs: Tensor, target: Any) -> Tensor:
        given = inputs.detach().clone()
        if call is not None:
            given = given.requires_grad_(given.is_floating_point() and not isinstance(explainer, UnifiedLRP))
            with torch.enable_grad():
                found = call(given, target=target)
        else:
            found = explainer(given, target)
        found = found[0] if isinstance(found, tuple) else found
        if not isinstance(found, Tensor):
            raise TypeError(f"the method returned a {type(found).__name__}, not relevance as a tensor")
        return found.detach()

    return explain


def _named(name: str, bounds: tuple[Any, Any] | None) -> Builder:
    if name == RANDOM:
        return lambda model: _random
    if name in METHODS and name != "lrp":
        return lambda model: explaining(build_method(name, model))
    if name in READY:
        return lambda model: explaining(UnifiedLRP(model, composite=name))
    if name == "epsilon_gamma_box":
        if bounds is None:
            raise ValueError("epsilon_gamma_box needs the input's range: bounds=(low, high)")
        return lambda model: explaining(UnifiedLRP(model, composite=epsilon_gamma_box(*bounds)))
    if name in RULES:
        return lambda model: explaining(UnifiedLRP(model, name))
    raise ValueError(unknown("method", name, method_names()))


def _random(inputs: Tensor, target: Any) -> Tensor:
    """Random numbers that depend on the example and on nothing else, so that neither order nor batches matter."""
    maps = []
    for example in inputs.detach().cpu():
        digest = hashlib.sha256(example.contiguous().numpy().tobytes()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        maps.append(torch.randn(example.shape, generator=generator))
    return torch.stack(maps).to(inputs.device)


def builders(
    methods: Sequence[Any] | Mapping[str, Any], model: Any, bounds: tuple[Any, Any] | None = None
) -> dict[str, Builder]:
    """The builders by name, in order. A list's methods that are no names are called by their class.

    Raises:
        ValueError: None is given, two have one name, or a name is unknown.
    """
    pairs = list(methods.items()) if isinstance(methods, Mapping) else [(_name_of(one), one) for one in methods]
    names = [name for name, _ in pairs]
    if not pairs or len(set(names)) < len(names):
        raise ValueError(f"methods {', '.join(names) or '(none)'}: give at least one, and a name of its own to each")
    return {name: builder(method, model, bounds) for name, method in pairs}


def explainers(
    methods: Sequence[Any] | Mapping[str, Any], model: Any, bounds: tuple[Any, Any] | None = None
) -> dict[str, Explain]:
    """The explanations of a model by name, made as `builders` says, which raises."""
    return {name: build(model) for name, build in builders(methods, model, bounds).items()}


def _name_of(method: Any) -> str:
    if isinstance(method, str):
        return method
    if isinstance(method, Composite):
        return method.name or "composite"
    return str(getattr(method, "__name__", type(method).__name__))
