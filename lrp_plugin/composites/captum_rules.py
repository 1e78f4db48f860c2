"""Captum's way to choose a rule, ``layer.rule = GammaRule()``, read as the first pairs of a composite."""

from __future__ import annotations

from typing import Any

from torch import nn

from lrp_plugin.composites.composite import RuleSpec, rule
from lrp_plugin.composites.selectors import Selector, predicate
from lrp_plugin.composites.site import Site
from lrp_plugin.torch_private import captums_rules


def captum_rules(model: Any) -> tuple[tuple[str, RuleSpec], ...]:
    """Path and rule of every module whose attribute ``rule`` is one of Captum's; other attributes of that name are none.

    ``EpsilonRule`` is epsilon, ``GammaRule`` gamma_montavon, ``Alpha1_Beta0_Rule`` zplus (equal for inputs that are not
    negative), ``IdentityRule`` pass.

    Raises:
        TypeError: For a rule of Captum's kind that has no counterpart (a class of one's own).
    """
    owner = model if isinstance(model, nn.Module) else getattr(model, "__self__", None)
    if not isinstance(owner, nn.Module):
        return ()
    for module in owner.modules():
        if "rule" in module.__dict__:
            break
    else:  # the usual case, without names
        return ()
    held = [(path, module.__dict__["rule"]) for path, module in owner.named_modules() if "rule" in module.__dict__]
    return tuple((path, _counterpart(path, one)) for path, one in held if _is_captums(one))


def _is_captums(one: Any) -> bool:
    return any(kind.__module__ == captums_rules for kind in type(one).__mro__)


def _counterpart(path: str, one: Any) -> RuleSpec:
    name = type(one).__name__ if type(one).__module__ == captums_rules else ""
    bias = "ignore" if getattr(one, "set_bias_to_zero", False) else "absorb"
    if name == "EpsilonRule":
        return rule("epsilon", epsilon=float(one.STABILITY_FACTOR))
    if name == "GammaRule":
        return rule("gamma_montavon", gamma=float(one.gamma), bias=bias)
    if name == "Alpha1_Beta0_Rule":
        return rule("zplus", bias=bias)
    if name == "IdentityRule":
        return rule("pass")
    raise TypeError(
        f"module {path!r} has rule={type(one).__name__}, which is no rule of Captum's own: write it for this package "
        f"(register_rule), and choose it by Composite([(path({path!r}), rule('name'))])"
    )


def at(path: str) -> Selector:
    """Operations run directly by the module of that path."""

    def matches(site: Site) -> bool:
        return site.path == path

    return predicate(matches, f"rule attribute of {path}")
