"""The shared call, gradient saliency, and the table of methods."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lrp_plugin.errors import told
from lrp_plugin.gradients.scores import ScoreModel, Target, resolve_target
from lrp_plugin.kinds import checked
from lrp_plugin.propagation.quiet import evaluating


class AttributionMethod(ABC):
    """What all methods share: ``attribute(inputs, target=None)``.

    Args:
        model: The classifier. Its output may be a tensor ``(N,)`` or ``(N, K)``, or a mapping with ``logit``
            or ``logits``.
        forward: What to call instead of ``model(inputs)``, for models that want keywords or further
            arguments: ``lambda images: model(image=images, disease=labels)``.
        output: ``"logit"``, ``"probability"`` or ``"log_probability"``. A gradient of the probability
            vanishes where the model is sure, hence the logit by default.

    Attributes:
        name: The method's name in `METHODS`.
        unit: The unit of the returned values, for a colour bar.

    Raises:
        TypeError: `model` is not a module.
        ValueError: `output` is not one of the three.
    """

    name = ""
    unit = "logit"

    def __init__(
        self, model: nn.Module, *, forward: Callable[[Tensor], Any] | None = None, output: str = "logit"
    ) -> None:
        self.scores = ScoreModel(model, forward, output)

    def attribute(self, inputs: Tensor, target: Target = None) -> Tensor:
        """Explain each example of the batch.

        Args:
            inputs: ``(N, C, H, W)``, floating point. Never changed; need not require gradients.
            target: The class to explain; see `resolve_target`.

        Returns:
            A detached tensor of the shape of `inputs` (unless the method's own options say otherwise).

        Raises:
            TypeError: `inputs` is not a tensor.
            ValueError: `inputs` is empty, not floating point or not finite, or `target` is not legal.
        """
        if not isinstance(inputs, Tensor):
            raise TypeError(f"inputs is a {type(inputs).__name__}; give a floating-point tensor (N, C, H, W)")
        if not inputs.is_floating_point() or inputs.ndim < 2 or not inputs.numel():
            given = f"{inputs.dtype} {tuple(inputs.shape)}"
            raise ValueError(f"inputs is {given}; give a non-empty floating-point tensor (N, C, H, W)")
        if not bool(torch.isfinite(inputs).all()):
            raise ValueError(f"inputs of shape {tuple(inputs.shape)} hold NaN or infinite entries")
        with torch.inference_mode(False), torch.enable_grad(), evaluating(self.scores.model):
            # A clone made here is an ordinary tensor even where the caller's was made in inference mode.
            signal = inputs.detach().clone().requires_grad_()
            return self._explain(signal, target).detach()

    @abstractmethod
    def _explain(self, signal: Tensor, target: Target) -> Tensor: ...


class GradientSaliency(AttributionMethod):
    """The gradient of the target's logit with respect to the input (Simonyan et al. 2014, arXiv:1312.6034).

    Args:
        model: See `AttributionMethod`.
        forward: See `AttributionMethod`.
        output: See `AttributionMethod`.
        absolute: Return ``|gradient|``; otherwise the sign is kept.
        channels: ``"keep"`` returns ``(N, C, H, W)``; ``"max"`` returns the largest magnitude over the
            channels, ``(N, H, W)``, which is Simonyan's map and PyHealth's.

    Raises:
        ValueError: `channels` is unknown, or ``"max"`` is asked together with a kept sign.
    """

    name = "saliency"
    unit = "logit per unit of intensity"

    def __init__(
        self,
        model: nn.Module,
        *,
        forward: Callable[[Tensor], Any] | None = None,
        output: str = "logit",
        absolute: bool = True,
        channels: str = "keep",
    ) -> None:
        super().__init__(model, forward=forward, output=output)
        if channels not in ("keep", "max"):
            raise ValueError(f"channels {told(channels)} is unknown; choose 'keep' or 'max'")
        if channels == "max" and not absolute:
            raise ValueError("channels='max' takes magnitudes: use absolute=True or channels='keep'")
        self.absolute, self.channels = absolute, channels

    def _explain(self, signal: Tensor, target: Target) -> Tensor:
        scores = self.scores(signal)
        chosen = scores.gather(1, resolve_target(target, scores.detach())[:, None])
        # torch.autograd.grad, not .backward(): the parameters' own .grad stays what it was.
        (gradient,) = torch.autograd.grad(chosen.sum(), signal)
        if self.absolute:
            gradient = gradient.abs()
        return gradient.amax(1) if self.channels == "max" else gradient


class CaptumMethod(AttributionMethod):
    """A function of ``(scores, signal, target, **options)`` under the shared call; made by `build_method`.

    Args:
        explain: Takes the model as a map to ``(N, K)``, the inputs ``(N, C, H, W)``, class indices ``(N,)``
            and its own options as keywords; returns a tensor of the inputs' shape.
        name: See `AttributionMethod`.
        unit: See `AttributionMethod`.
        model: See `AttributionMethod`.
        forward: See `AttributionMethod`.
        output: See `AttributionMethod`.
        **options: The keywords of `explain`.

    Raises:
        ValueError: An option that `explain` does not have.
    """

    @checked
    def __init__(
        self,
        explain: Callable[..., Tensor],
        name: str,
        unit: str,
        model: Any,  # `ScoreModel` says more of what is none
        *,
        forward: Callable[[Tensor], Any] | None = None,
        output: str = "logit",
        **options: Any,
    ) -> None:
        super().__init__(model, forward=forward, output=output)
        parameters = inspect.signature(explain).parameters.values()
        legal = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
        unknown = [key for key in options if key not in legal]
        if unknown:
            known = ", ".join([*legal, "forward", "output"])
            raise ValueError(f"{name} has no option {', '.join(unknown)}; it has {known}")
        self.name, self.unit = name, unit
        self._run = partial(explain, **options)

    def _explain(self, signal: Tensor, target: Target) -> Tensor:
        with torch.no_grad():
            indices = resolve_target(target, self.scores(signal))
        return self._run(self.scores, signal, indices)


METHODS: dict[str, Callable[..., AttributionMethod]] = {"saliency": GradientSaliency}
"""Every method by name: ``METHODS[name](model, forward=, output=, **options)``."""


def method(name: str, unit: str = "logit") -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Register a function with the arguments of `CaptumMethod`'s `explain` under `name`.

    Raises:
        ValueError: The name is taken.
    """

    def register(explain: Callable[..., Tensor]) -> Callable[..., Tensor]:
        if name in METHODS:
            raise ValueError(f"the method {name!r} is registered already")
        METHODS[name] = partial(CaptumMethod, explain, name, unit)
        return explain

    return register


@checked
def build_method(name: str, model: nn.Module, **options: Any) -> AttributionMethod:
    """Make a method by name.

    Args:
        name: A key of `METHODS`: ``saliency`` (`GradientSaliency`), ``smoothgrad`` (samples=25, noise=0.15,
            seed=0, absolute=True), ``input_x_gradient``, ``integrated_gradients`` (steps=50, baseline=0.0,
            batch_size=32), ``gradcam`` (layer=None), ``guided_gradcam`` (layer=None), ``occlusion``
            (window=None, stride=None, baseline=0.0, batch_size=32), ``lrp`` (the options of
            `lrp_plugin.UnifiedLRP`).
        model: The classifier.
        **options: ``forward`` and ``output`` (see `AttributionMethod`) and the method's own.

    Returns:
        An object with ``attribute(inputs, target=None)``, ``name`` and ``unit``.

    Raises:
        ValueError: The name or an option is unknown.
    """
    if name not in METHODS:
        raise ValueError(f"method {told(name)} is unknown; choose from {', '.join(METHODS)}")
    return METHODS[name](model, **options)
