"""What a rule is written with, in one place: the call, and operations whose value is kept and whose backward is changed."""

from lrp_plugin.algebra.call import Call
from lrp_plugin.algebra.formulas import reciprocal, relevance_of, stabilize, widened
from lrp_plugin.algebra.linear_map import LinearMap
from lrp_plugin.algebra.nests import map_tensors, tensors_in
from lrp_plugin.algebra.parts import (
    NEGATIVE,
    PORT,
    POSITIVE,
    WHOLE,
    Part,
    Share,
    Shares,
    at_port,
    by_sign,
    weighted,
)
from lrp_plugin.algebra.primitives import (
    Carrier,
    damp,
    end_port,
    redistribute,
    redistribute_with_port,
    scale,
    substitute,
)
from lrp_plugin.algebra.result import Result, held
from lrp_plugin.rules.maps import linear_rule

__all__ = [
    "NEGATIVE", "PORT", "POSITIVE", "WHOLE", "Call", "Carrier", "LinearMap", "Part", "Result", "Share", "Shares", "at_port",
    "by_sign", "damp", "end_port", "held", "linear_rule", "map_tensors", "reciprocal", "redistribute", "redistribute_with_port",
    "relevance_of", "scale", "stabilize", "substitute", "tensors_in", "weighted", "widened",
]  # fmt: skip
