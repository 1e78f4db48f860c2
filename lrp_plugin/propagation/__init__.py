"""One forward pass, every operation intercepted."""

from lrp_plugin.propagation.mode import Propagation

__all__ = ["Propagation"]
