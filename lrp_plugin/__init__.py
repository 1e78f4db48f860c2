"""Layer-wise relevance propagation for any PyTorch model, as a Captum attribution method."""

from lrp_plugin.attribution import UnifiedLRP
from lrp_plugin.attribution.layers import LayerUnifiedLRP, NeuronUnifiedLRP
from lrp_plugin.composites import Composite, list_composites, rule
from lrp_plugin.errors import UnsupportedOperationError, UnsupportedOperationWarning
from lrp_plugin.explain import (
    Explanation,
    Preprocessing,
    explain_image,
    explain_signal,
    explain_table,
    explain_text,
    explain_volume,
)
from lrp_plugin.ledger import Ledger
from lrp_plugin.registry import Registry, Rule, list_rules, register_rule, registry
from lrp_plugin.version import __version__

__all__ = [
    "Composite",
    "Explanation",
    "LayerUnifiedLRP",
    "Ledger",
    "NeuronUnifiedLRP",
    "Preprocessing",
    "Registry",
    "Rule",
    "UnifiedLRP",
    "UnsupportedOperationError",
    "UnsupportedOperationWarning",
    "__version__",
    "explain_image",
    "explain_signal",
    "explain_table",
    "explain_text",
    "explain_volume",
    "list_composites",
    "list_rules",
    "register_rule",
    "registry",
    "rule",
]
