"""Composites: which rule where, as data, and the ready ones of the field."""

from lrp_plugin.composites.composite import Choice, Chooser, Composite, RuleSpec, rule
from lrp_plugin.composites.ready import (
    arras,
    attnlrp,
    attnlrp_gamma,
    cp_lrp,
    deconvnet,
    deep_taylor,
    epsilon_alpha2_beta1,
    epsilon_alpha2_beta1_flat,
    epsilon_gamma_box,
    epsilon_plus,
    epsilon_plus_flat,
    guided_backprop,
    list_composites,
    lrp_cmp,
    mamba_lrp,
    ready_composite,
    recurrent,
)
from lrp_plugin.composites.selectors import (
    Selector,
    anything,
    convolutions,
    dense,
    depth,
    first,
    last,
    linear_maps,
    module,
    nth,
    operation,
    path,
    predicate,
)
from lrp_plugin.composites.site import Site

__all__ = [
    "Choice", "Chooser", "Composite", "RuleSpec", "Selector", "Site", "anything", "arras", "attnlrp", "attnlrp_gamma",
    "convolutions", "cp_lrp", "deconvnet", "deep_taylor", "dense", "depth", "epsilon_alpha2_beta1", "epsilon_alpha2_beta1_flat",
    "epsilon_gamma_box", "epsilon_plus", "epsilon_plus_flat", "first", "guided_backprop", "last", "linear_maps",
    "list_composites", "lrp_cmp", "mamba_lrp", "module", "nth", "operation", "path", "predicate", "ready_composite",
    "recurrent", "rule",
]  # fmt: skip
