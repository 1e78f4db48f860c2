"""Gradient and perturbation methods under one call: ``method.attribute(inputs, target=None) -> Tensor``.

`GradientSaliency` is written here. Everything else is Captum's own class, prepared so that every method takes
the same arguments, returns a tensor of the input's shape and leaves the model as it found it: parameter
gradients, hooks and the train/eval state of each module are unchanged, and the call works inside
``torch.no_grad`` and ``torch.inference_mode``.

    >>> maps = {name: build_method(name, model).attribute(images, target=1) for name in ("saliency", "lrp")}
"""

from lrp_plugin.gradients.captum_methods import last_feature_layer
from lrp_plugin.gradients.methods import (
    METHODS,
    AttributionMethod,
    CaptumMethod,
    GradientSaliency,
    build_method,
    method,
)
from lrp_plugin.gradients.scores import OUTPUTS, ScoreModel, Target, resolve_target

__all__ = [
    "METHODS",
    "OUTPUTS",
    "AttributionMethod",
    "CaptumMethod",
    "GradientSaliency",
    "ScoreModel",
    "Target",
    "build_method",
    "last_feature_layer",
    "method",
    "resolve_target",
]
