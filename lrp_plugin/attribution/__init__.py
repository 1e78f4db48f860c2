"""Captum's face: the explainers, what they take, and the session that runs every pass."""

from lrp_plugin.attribution.layers import LayerUnifiedLRP, NeuronUnifiedLRP
from lrp_plugin.attribution.unified import RULES, Inputs, UnifiedLRP

__all__ = ["RULES", "Inputs", "LayerUnifiedLRP", "NeuronUnifiedLRP", "UnifiedLRP"]
