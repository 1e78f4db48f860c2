"""One call from a model and its input to a picture of what the answer rests on.

===================  ==================================================================
`explain_image`      a photograph, a radiograph; classifiers, segmentations, detectors
`explain_text`       a text, or the tokens a language model goes on with
`explain_signal`     a signal over time
`explain_table`      a row of a table
`explain_volume`     a volume
===================  ==================================================================

Each returns an `Explanation`. All of them call `UnifiedLRP` and the figures, and nothing else. All take:

labels
    Names of the classes: a list, a dict from output to name, a text file with one a line, or ``"imagenet"``. None: the
    model's own, where its package knows them.
bias
    ``"absorb"``, ``"ignore"`` or ``"distribute"``: what becomes of the relevance of biases.
output
    What is explained of what the model returns; see `UnifiedLRP`.
probabilities
    How outputs become probabilities: ``"softmax"``, ``"sigmoid"``, ``"given"``, ``"none"``; None decides by the model.
topk
    How many of the model's answers to name.
ledger
    Whether to keep the account of where the logit went (one more pass).
name
    What the model is called in figures.
further ones
    Options of `UnifiedLRP` (``epsilon``, ``strict``, ...) or of the gradient method.
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
