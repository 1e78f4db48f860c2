"""The rules, by kind of operation; importing this package fills the registry."""

from lrp_plugin.rules import (
    activations,
    additions,
    attention,
    embedding,
    functions,
    maps,
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
    "maps",
    "norms",
    "pooling",
    "products",
    "recurrent",
    "routing",
    "secants",
]
