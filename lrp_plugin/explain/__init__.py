"""One call from a model and its input to a picture of what the answer rests on.

===================  ==================================================================
`explain_image`      a photograph, a radiograph; classifiers, segmentations, detectors
`explain_text`       a text, or the tokens a language model goes on with
`explain_signal`     a signal over time
`explain_table`      a row of a table
`explain_volume`     a volume
===================  ==================================================================

Each returns an `Explanation`. All of them call `UnifiedLRP` and the figures, and nothing else.
"""

from lrp_plugin.explain.explanation import Explanation, Guess
from lrp_plugin.explain.methods import FAMILIES, family_of, method_names
from lrp_plugin.explain.names import imagenet_names
from lrp_plugin.explain.numbers import explain_signal, explain_table, explain_volume
from lrp_plugin.explain.picture import explain_image
from lrp_plugin.explain.preprocessing import Preprocessing, preprocessing_of
from lrp_plugin.explain.words import explain_text

__all__ = [
    "FAMILIES",
    "Explanation",
    "Guess",
    "Preprocessing",
    "explain_image",
    "explain_signal",
    "explain_table",
    "explain_text",
    "explain_volume",
    "family_of",
    "imagenet_names",
    "method_names",
    "preprocessing_of",
]
