"""What is measured: the networks, and our rules and the peers' as calls without arguments."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from captum.attr import LRP, Saliency
from torch import Tensor, nn

from lrp_plugin import UnifiedLRP
from lrp_plugin.composites.ready import epsilon_gamma_box

# name: (images in a batch as issue 5 asks, side in pixels)
NETWORKS = {
    "resnet18": (8, 224), "resnet50": (8, 224), "vgg16": (2, 224), "densenet121": (4, 224), "vit_b_16": (2, 224),
}  # fmt: skip
RULES = ("epsilon", "zero", "zplus", "epsilon_plus_flat", "gamma_montavon", "gamma", "epsilon_gamma_box", "alphabeta")
VIT_RULES = ("attnlrp", "zplus", "gamma", "alphabeta")
TARGET = 3


def network(name: str, device: torch.device, channels_last: bool = False) -> nn.Module:
    """A torchvision network, weights from a fixed seed, BatchNorm's statistics from two passes over noise.

    Without those passes the activations of a random ResNet-50 grow from block to block to values no trained
    network has.
    """
    from torchvision import models

    torch.manual_seed(0)
    model = getattr(models, name)(weights=None).to(device)
    model.train()
    with torch.no_grad():
        for _ in range(2):
            model(torch.randn(4, 3, 96, 96, device=device) if name != "vit_b_16" else pixels(name, 1, device))
    model = model.eval().requires_grad_(False)
    return model.to(memory_format=torch.channels_last) if channels_last else model


def pixels(name: str, batch: int, device: torch.device, side: int | None = None) -> Tensor:
    """A batch of noise, shape (batch, 3, side, side)."""
    generator = torch.Generator().manual_seed(1)
    side = NETWORKS[name][1] if side is None else side
    return torch.randn(batch, 3, side, side, generator=generator).to(device)


def explainer(model: nn.Module, name: str, compile: bool | str = False) -> UnifiedLRP:
    """Our explainer for a rule, or for a ready composite of that name."""
    extra: dict[str, Any] = {"compile": compile} if compile else {}
    if name == "epsilon_gamma_box":
        return UnifiedLRP(model, composite=epsilon_gamma_box(-3.0, 3.0), **extra)
    if name in ("attnlrp", "cp_lrp", "epsilon_plus", "epsilon_plus_flat"):
        return UnifiedLRP(model, composite=name, **extra)
    return UnifiedLRP(model, name, **extra)


def _precision(kind: str, device: torch.device) -> Callable[[], Any]:
    if kind == "bf16":
        return lambda: torch.autocast(device.type, torch.bfloat16)
    return nullcontext


def saliency(model: nn.Module, images: Tensor, precision: str = "fp32") -> Callable[[], Tensor]:
    """The baseline: Captum's gradient saliency."""
    method, scope, given = Saliency(model), _precision(precision, images.device), images.clone().requires_grad_()

    def call() -> Tensor:
        with scope():
            return method.attribute(given, target=TARGET)

    return call


def ours(
    model: nn.Module, images: Tensor, name: str, precision: str = "fp32", compile: bool | str = False
) -> Callable[[], Tensor]:
    """One of our rules or composites."""
    method, scope = explainer(model, name, compile), _precision(precision, images.device)

    def call() -> Tensor:
        with scope():
            return method.attribute(images, target=TARGET)

    return call


def peers(name: str, model: nn.Module, images: Tensor) -> dict[str, Callable[[], Any]]:
    """The peers that are installed and can explain this network, by name."""
    found: dict[str, Callable[[], Any]] = {"captum LRP": _captum(name, images)}
    if importlib.util.find_spec("zennit") is not None:
        for composite in ("EpsilonPlus", "EpsilonGammaBox", "EpsilonAlpha2Beta1"):
            found[f"zennit {composite}"] = _zennit(name, model, images, composite)
    if importlib.util.find_spec("autolrp") is not None:
        found |= {f"autolrp {kind}": _autolrp(model, images, kind) for kind in ("base", "zplus in convolutions")}
    if name == "vit_b_16" and importlib.util.find_spec("lxt") is not None and images.device.type == "cpu":
        from benchmarks.lxt_peer import lxt_efficient

        trained = next(model.parameters()).requires_grad
        for kind in ("CP-LRP", "AttnLRP"):
            found[f"lxt {kind}"] = lxt_efficient(kind, name, len(images), trained)
    return found


def _autolrp(model: nn.Module, images: Tensor, kind: str) -> Callable[[], Any]:
    import autolrp

    rules = autolrp.BASE if kind == "base" else {**autolrp.BASE, "ConvolutionBackward": "zplus"}
    config = autolrp.LRPConfig(rule=rules)

    def call() -> Any:
        given = autolrp.tensor(images.clone())
        model(given)[:, TARGET].sum().lrp(config=config)
        return given.relevance

    return call


def _captum(name: str, images: Tensor) -> Callable[[], Any]:
    from torch.nn import ReLU

    model = network(name, images.device)
    for module in model.modules():  # Captum's hooks fail on in-place activations
        if isinstance(module, ReLU):
            module.inplace = False
    method = LRP(model)
    return lambda: method.attribute(images.clone().requires_grad_(), target=TARGET)


def _zennit(name: str, model: nn.Module, images: Tensor, composite: str) -> Callable[[], Any]:
    import zennit.attribution
    import zennit.composites
    import zennit.torchvision

    canonizers = {
        "resnet18": zennit.torchvision.ResNetCanonizer, "resnet50": zennit.torchvision.ResNetCanonizer,
        "vgg16": zennit.torchvision.VGGCanonizer,
    }  # fmt: skip
    made = [canonizers[name]()] if name in canonizers else []
    bounds = {"low": -3.0, "high": 3.0} if composite == "EpsilonGammaBox" else {}
    chosen = getattr(zennit.composites, composite)(canonizers=made, **bounds)
    seed = torch.zeros(images.shape[0], 1000, device=images.device)
    seed[:, TARGET] = 1

    def call() -> Any:
        with zennit.attribution.Gradient(model=model, composite=chosen) as attributor:
            return attributor(images.clone().requires_grad_(), seed)

    return call
