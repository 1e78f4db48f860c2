"""One forward pass, every operation intercepted."""

from lrp_plugin.propagation.mode import Propagation
from lrp_plugin.propagation.setup import Setup

__all__ = ["Propagation", "Setup"]
