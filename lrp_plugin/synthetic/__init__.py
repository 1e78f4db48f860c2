"""Synthetic chest radiographs whose evidence is known: no files, no network, any size, the same for the same seed.

    >>> pictures = SyntheticCXR(n=400, seed=0, size=64)
    >>> pictures[0]["evidence"]  # where the opacities were drawn: what a right explanation should point at

For judging explanations, training examples and tests of any part of the package; needs nothing beyond its core.
"""

from lrp_plugin.synthetic.dataset import SyntheticCXR
from lrp_plugin.synthetic.opacities import CLASSES, Shortcut

__all__ = ["CLASSES", "Shortcut", "SyntheticCXR"]
