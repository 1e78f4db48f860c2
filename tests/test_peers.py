"""The field's libraries give the same relevance: zennit 0.5.1 (with its canonizers) and captum's LRP."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import captum.attr
import pytest
import torch
import torchvision
from torch import Tensor, nn

from lrp_plugin import Composite, UnifiedLRP, composites, rule
from lrp_plugin.composites import convolutions, dense

pytestmark = pytest.mark.peers
# zennit adds its stabilizer to sums and average pools too, where ours need none: so small that this shows nowhere.
STABILIZER = 1e-12
LOW, HIGH = -3.0, 3.0
SIZES = {"vgg11": 64, "vgg11_bn": 64, "resnet18": 64, "alexnet": 64}


@pytest.fixture(scope="module", params=sorted(SIZES))
def network(request: pytest.FixtureRequest) -> tuple[str, nn.Module, Tensor]:
    """A torchvision network in float64 with random weights, biases and BatchNorm statistics, and one image."""
    torch.manual_seed(0)
    model = getattr(torchvision.models, request.param)(weights=None, num_classes=10)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0  # zennit's canonizer leaves it at work on the merged layer: a factor 1 - 5e-6 each
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
        if getattr(module, "bias", None) is not None and isinstance(module.bias, Tensor):
            nn.init.normal_(module.bias, 0, 0.1)
    size = SIZES[request.param]
    return request.param, model.double().eval(), torch.rand(1, 3, size, size, dtype=torch.float64) * 6 - 3


def with_zennit(name: str, model: nn.Module, x: Tensor, make: Callable[..., Any]) -> Tensor:
    """zennit's attribution of output 3, its canonizer in place."""
    pytest.importorskip("zennit", reason="zennit 0.5.1 is not installed (extra peers)")
    from zennit.attribution import Gradient
    from zennit.torchvision import ResNetCanonizer, VGGCanonizer

    canonizers = {"resnet18": [ResNetCanonizer()], "vgg11_bn": [VGGCanonizer()]}.get(name, [])
    with Gradient(model=model, composite=make(canonizers)) as attributor:
        start = torch.nn.functional.one_hot(torch.tensor([3]), 10).double()
        output = model(x)
        _, relevance = attributor(x.clone(), start * output.detach())
    return relevance.detach()


def close(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    error = (ours - theirs).abs().max() / theirs.abs().max()
    assert torch.isfinite(ours).all() and error <= tolerance, f"relative difference {float(error):.3g}"


@pytest.mark.parametrize(
    "name",
    ["epsilon_plus", "epsilon_plus_flat", "epsilon_alpha2_beta1", "epsilon_alpha2_beta1_flat", "epsilon_gamma_box"],
)
def test_composite_equals_zennit(network: tuple[str, nn.Module, Tensor], name: str) -> None:
    """Relative 1e-6, the stabilizers alike."""
    pytest.importorskip("zennit", reason="zennit 0.5.1 is not installed (extra peers)")
    from zennit.composites import COMPOSITES

    label, model, x = network
    theirs_class = COMPOSITES[name]
    extra: dict[str, Any] = {}
    if name == "epsilon_gamma_box":
        extra = {"low": torch.full_like(x[:1], LOW), "high": torch.full_like(x[:1], HIGH)}
    theirs = with_zennit(
        label, model, x,
        lambda canonizers: theirs_class(epsilon=STABILIZER, stabilizer=STABILIZER, canonizers=canonizers, **extra),
    )  # fmt: skip
    bounds = {"low": LOW, "high": HIGH} if extra else {}
    ours = getattr(composites, name)(epsilon=STABILIZER, stabilizer=STABILIZER, **bounds)
    close(UnifiedLRP(model, composite=ours).attribute(x, target=3), theirs, 1e-6)


def test_epsilon_plus_equals_zennit_on_resnet18(network: tuple[str, nn.Module, Tensor]) -> None:
    """z+ in convolutions, epsilon 1e-6 in dense layers, stabilizers at zennit's defaults: cosine > 0.999999."""
    pytest.importorskip("zennit", reason="zennit 0.5.1 is not installed (extra peers)")
    from zennit.composites import EpsilonPlus

    label, model, x = network
    if label != "resnet18":
        pytest.skip("the line is about ResNet-18")
    theirs = with_zennit(label, model, x, lambda canonizers: EpsilonPlus(canonizers=canonizers))
    pairs = [(convolutions(), rule("zplus", stabilizer=1e-6)), (dense(), rule("epsilon", epsilon=1e-6))]
    ours = UnifiedLRP(model, composite=Composite(pairs)).attribute(x, target=3)
    assert torch.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.999999


def test_wsquare_differs_from_zennit_by_the_bias() -> None:
    """zennit counts bias^2 in the denominator of w^2, Montavon et al. 2017 do not: equal without bias, not with it."""
    pytest.importorskip("zennit", reason="zennit 0.5.1 is not installed (extra peers)")
    from zennit.composites import LayerMapComposite
    from zennit.rules import WSquare

    torch.manual_seed(0)
    found = []
    for bias in (False, True):
        model = nn.Sequential(nn.Linear(6, 10, bias=bias)).double()
        x = torch.rand(1, 6, dtype=torch.float64)
        theirs = with_zennit(
            "", model, x, lambda canonizers: LayerMapComposite([((nn.Linear,), WSquare(stabilizer=1e-12))])
        )
        ours = UnifiedLRP(model, rule="wsquare", stabilizer=1e-12).attribute(x, target=3)
        found.append(float((ours - theirs).abs().max() / theirs.abs().max()))
    assert found[0] < 1e-9 < 1e-3 < found[1]


def test_epsilon_equals_captum(network: tuple[str, nn.Module, Tensor]) -> None:
    """captum's LRP (its EpsilonRule at 1e-9) on AlexNet and VGG-11, relative 1e-5."""
    label, model, x = network
    if label not in ("alexnet", "vgg11"):
        pytest.skip("captum refuses skip connections, and its LRP of BatchNorm is no LRP")
    plain = copy.deepcopy(model)
    for module in plain.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # captum's hooks refuse in-place modules
    theirs = captum.attr.LRP(plain).attribute(x.clone().requires_grad_(), target=3)
    close(UnifiedLRP(model, rule="epsilon", epsilon=1e-9).attribute(x, target=3), theirs.detach(), 1e-5)
