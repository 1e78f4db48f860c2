"""Captum's attribution classes, and this package's LRP, entered in the table of methods."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from captum.attr import (
    GuidedGradCam,
    InputXGradient,
    IntegratedGradients,
    LayerAttribution,
    LayerGradCam,
    NoiseTunnel,
    Occlusion,
    Saliency,
)
from torch import Tensor, nn

from lrp_plugin.attribution.arguments import Arguments
from lrp_plugin.errors import told
from lrp_plugin.gradients.methods import METHODS, AttributionMethod, method
from lrp_plugin.gradients.scores import ScoreModel, Target, resolve_target
from lrp_plugin.kinds import checked


@method("input_x_gradient")
def _input_x_gradient(scores: ScoreModel, signal: Tensor, target: Tensor) -> Tensor:
    """Captum's `InputXGradient` (Shrikumar et al. 2016, arXiv:1605.01713)."""
    return InputXGradient(scores).attribute(signal, target=target)


@method("integrated_gradients")
def _integrated_gradients(
    scores: ScoreModel,
    signal: Tensor,
    target: Tensor,
    *,
    steps: int = 50,
    baseline: float | Tensor = 0.0,
    batch_size: int = 32,
) -> Tensor:
    """Captum's `IntegratedGradients` (Sundararajan et al. 2017, arXiv:1703.01365).

    `steps` points between `baseline` (a number, or a tensor of the inputs' shape, in the inputs' units) and
    the input, at most `batch_size` of them in one pass.
    """
    return IntegratedGradients(scores).attribute(
        signal,
        baselines=baseline,
        target=target,
        n_steps=steps,
        internal_batch_size=max(batch_size, len(signal)),
    )


@method("smoothgrad", unit="logit per unit of intensity")
def _smoothgrad(
    scores: ScoreModel,
    signal: Tensor,
    target: Tensor,
    *,
    samples: int = 25,
    noise: float = 0.15,
    seed: int = 0,
    absolute: bool = True,
) -> Tensor:
    """Captum's `NoiseTunnel` over the signed gradient (Smilkov et al. 2017, arXiv:1706.03825).

    `noise` is the standard deviation as a share of each image's range of values (the paper's 0.1 to 0.2).
    Example by example from the same `seed`, so a map does not depend on the rest of the batch; the global
    generators are untouched.
    """
    tunnel = NoiseTunnel(Saliency(scores))
    devices = [signal.device] if signal.device.type == "cuda" else []
    maps = []
    for image, index in zip(signal.detach().split(1), target.split(1), strict=True):
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            spread = float(noise * (image.max() - image.min()))
            maps.append(
                tunnel.attribute(
                    image.requires_grad_(), nt_samples=samples, stdevs=spread, target=index, abs=False
                ).detach()
            )
    mean = torch.cat(maps)
    return mean.abs() if absolute else mean


@checked
def last_feature_layer(model: nn.Module, inputs: Tensor) -> nn.Module:
    """The last module in order of execution whose output is a feature map ``(N, C, h, w)`` of several places.

    Grad-CAM's usual layer: ``layer4`` of a ResNet, ``features`` of a DenseNet. Found by one forward pass with
    temporary hooks. A Vision Transformer has no feature map after its patch embedding: its Grad-CAM is coarse
    and of little use, choose another method there.

    Raises:
        ValueError: No module returns such a tensor.
    """
    found: list[nn.Module] = []

    def look(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            found.append(module)

    hooks = [module.register_forward_hook(look) for module in model.modules()]
    try:
        with torch.no_grad():
            Arguments().call(model, (inputs,))
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise ValueError(
            "no module of the model returns a feature map (N, C, h, w), which Grad-CAM needs; give layer=... "
            "or choose another method"
        )
    return found[-1]


@method("gradcam", unit="arbitrary")
def _gradcam(scores: ScoreModel, signal: Tensor, target: Tensor, *, layer: nn.Module | None = None) -> Tensor:
    """Captum's `LayerGradCam` (Selvaraju et al. 2017, arXiv:1610.02391), negative values cut as in the paper.

    Resized to the image (bilinear) and shared evenly between the channels, so that their sum is the map.
    """
    layer = layer or last_feature_layer(scores, signal[:1].detach())
    cam = LayerGradCam(scores, layer).attribute(signal, target=target, relu_attributions=True)
    size = (signal.shape[2], signal.shape[3])
    full = LayerAttribution.interpolate(cam, size, interpolate_mode="bilinear")
    return full.expand_as(signal) / signal.shape[1]


@method("guided_gradcam", unit="arbitrary")
def _guided_gradcam(scores: ScoreModel, signal: Tensor, target: Tensor, *, layer: nn.Module | None = None) -> Tensor:
    """Captum's `GuidedGradCam` (Selvaraju et al. 2017): Grad-CAM times guided backpropagation.

    Guides through `nn.ReLU` modules only; a functional ReLU keeps its plain gradient (Captum's restriction).
    """
    layer = layer or last_feature_layer(scores, signal[:1].detach())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Setting backward hooks on ReLU")
        return GuidedGradCam(scores, layer).attribute(signal, target=target, interpolate_mode="bilinear")


@method("occlusion")
def _occlusion(
    scores: ScoreModel,
    signal: Tensor,
    target: Tensor,
    *,
    window: int | None = None,
    stride: int | None = None,
    baseline: float | Tensor = 0.0,
    batch_size: int = 32,
) -> Tensor:
    """Captum's `Occlusion` (Zeiler & Fergus 2014, arXiv:1311.2901): how far the output falls behind a square.

    `window` is the square's side in pixels (an eighth of the image's shorter side if None), `stride` its step
    (half a window if None), `baseline` what is painted, in the inputs' units.
    """
    window = window or max(min(signal.shape[2:]) // 8, 1)
    stride = stride or max(window // 2, 1)
    channels = signal.shape[1]
    return Occlusion(scores).attribute(
        signal.detach(),
        sliding_window_shapes=(channels, window, window),
        strides=(channels, stride, stride),
        baselines=baseline,
        target=target,
        perturbations_per_eval=max(batch_size // len(signal), 1),
    )


class _LRP(AttributionMethod):
    """Layer-wise relevance propagation: this package's `UnifiedLRP` and its options under the shared call."""

    name = "lrp"

    def __init__(
        self,
        model: nn.Module,
        *,
        forward: Callable[[Tensor], Any] | None = None,
        output: str = "logit",
        **options: Any,
    ) -> None:
        # Imported here: the gradient methods are of use without the propagation, and start faster.
        from lrp_plugin import UnifiedLRP

        if output != "logit":
            raise ValueError(f"lrp explains the logit, not output={told(output)}; leave output at 'logit'")
        super().__init__(model, forward=forward)
        # The model itself where it can be: rules chosen by module path then see the user's own paths.
        self.lrp = UnifiedLRP(model if forward is None else self.scores, **options)

    def _explain(self, signal: Tensor, target: Target) -> Tensor:
        with torch.no_grad():
            indices = resolve_target(target, self.scores(signal))
        return self.lrp.attribute(signal, target=indices)


METHODS["lrp"] = _LRP
