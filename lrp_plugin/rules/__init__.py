"""The rules, by kind of operation; importing this package fills the registry."""

from lrp_plugin.rules import (
    activations,
    additions,
    attention,
    embedding,
    functions,
    input_layer,
    linear,
    norms,
    pooling,
    products,
    recurrent,
    routing,
    secants,
)

__all__ = [
    "activations",
    "additions",
    "attention",
    "embedding",
    "functions",
    "input_layer",
    "linear",
    "norms",
    "pooling",
    "products",
    "recurrent",
    "routing",
    "secants",
]
