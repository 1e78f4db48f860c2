"""What a rule is written with, in one place: the call, and operations whose value is kept and whose backward is changed."""

from lrp_plugin.algebra.call import Call, map_tensors, tensors_in
from lrp_plugin.algebra.formulas import Carrier, reciprocal, relevance_of, stabilize, widened
from lrp_plugin.algebra.primitives import (
    damp,
    end_port,
    redistribute,
    redistribute_with_port,
    scale,
    substitute,
)

__all__ = [
    "Call", "Carrier", "damp", "end_port", "map_tensors", "reciprocal", "redistribute", "redistribute_with_port",
    "relevance_of", "scale", "stabilize", "substitute", "tensors_in", "widened",
]  # fmt: skip
