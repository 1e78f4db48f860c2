"""What a pass holds at a time, from every allocation and release, beside gradient saliency."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from captum.attr import Saliency
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torchvision.models import resnet18

from lrp_plugin import UnifiedLRP
from lrp_plugin.composites import ready_composite
from lrp_plugin.composites.ready import READY

# ResNet-18 at 224 px, batch 2: epsilon 1.00, zplus 0.90, gamma 0.91, alphabeta 1.27, epsilon_plus_flat 0.92.
BOUNDS = {"epsilon": 1.15, "zplus": 1.1, "gamma": 1.15, "alphabeta": 1.5, "epsilon_plus_flat": 1.15}


def peak(method: Saliency | UnifiedLRP, images: Tensor) -> int:
    """Bytes held at most during one call, beyond what was held before."""
    method.attribute(images, target=0)  # modified weights are kept from here on
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        method.attribute(images, target=0)
    events = recorded.profiler.kineto_results.events()
    held = highest = 0
    for _, change in sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"):
        held += change
        highest = max(highest, held)
    return highest


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return resnet18(weights=None).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def saliency_peak(network: nn.Module) -> int:
    return peak(Saliency(network), torch.randn(2, 3, 128, 128))


@pytest.mark.parametrize("name", BOUNDS)
def test_peak_beside_gradient_saliency(name: str, network: nn.Module, saliency_peak: int) -> None:
    composite = "flat" in name
    lrp = UnifiedLRP(network, composite=ready_composite(name)) if composite else UnifiedLRP(network, name)
    assert saliency_peak > 2**23, "the measure sees less than the first activations"
    assert peak(lrp, torch.randn(2, 3, 128, 128)) <= BOUNDS[name] * saliency_peak


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("rule", ["epsilon", "zplus", "alphabeta", "epsilon_plus_flat", "deep_taylor"])
def test_an_activation_is_let_go_when_its_reader_has_run(rule: str, inplace: bool) -> None:
    """While the last layer runs, the first convolution's output is gone, and the ReLU's where no one keeps its value."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace), nn.Conv2d(4, 4, 3), nn.ReLU(inplace), nn.Flatten(),
        nn.Linear(4 * 4 * 4, 2),
    ).eval()  # fmt: skip
    seen: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def note(module: nn.Module, given: object, out: Tensor) -> None:
        seen.append(weakref.ref(out))

    def count(module: nn.Module, given: object) -> None:
        alive.append(sum(reference() is not None for reference in seen))

    # Behind epsilon and a BatchNorm the ReLU's own backward keeps its value; on torch 2.6 it keeps the very tensor.
    watched = [model[0]] if rule == "epsilon" else [model[0], model[2]]
    hooks = [module.register_forward_hook(note) for module in watched]
    hooks.append(model[6].register_forward_pre_hook(count))
    gc.disable()  # by counting references alone, not by the collector
    try:
        lrp = UnifiedLRP(model, composite=rule) if rule in READY else UnifiedLRP(model, rule)
        lrp.attribute(torch.randn(2, 3, 8, 8), target=0)
    finally:
        gc.enable()
        for hook in hooks:
            hook.remove()
    assert len(seen) == len(watched) and alive == [0]


@pytest.mark.parametrize("rule", ["epsilon", "zplus", "gamma", "alphabeta", "flat", "wsquare", "epsilon_plus_flat"])
def test_a_pass_leaves_no_cycle(rule: str) -> None:
    """What a call made goes with its last reference, not when the collector runs: it may hold gigabytes."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(True), nn.Conv2d(4, 4, 3, padding=1), nn.MaxPool2d(2),
        nn.ConvTranspose2d(4, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(100, 2),
    ).eval()  # fmt: skip
    lrp = UnifiedLRP(model, composite=rule) if rule in READY else UnifiedLRP(model, rule)
    images = torch.randn(2, 3, 19, 19)
    lrp.attribute(images, target=0)
    gc.collect()
    gc.disable()
    try:
        before = sum(issubclass(type(item), Tensor) for item in gc.get_objects())
        for _ in range(3):
            lrp.attribute(images, target=0)
        after = sum(issubclass(type(item), Tensor) for item in gc.get_objects())
    finally:
        gc.enable()
    assert after == before


class Stream(nn.Module):
    """A residual stream of two-layer blocks; ``alive``: whose hidden values still exist at the end of the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.ModuleList(nn.Linear(6, 12) for _ in range(3))
        self.narrow = nn.ModuleList(nn.Linear(12, 6) for _ in range(3))
        self.alive: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        hidden = []
        for wide, narrow in zip(self.wide, self.narrow):
            h = nn.functional.gelu(wide(x))
            hidden.append(weakref.ref(h))
            x = x + narrow(h)
            del h
        self.alive = [reference() is not None for reference in hidden]
        return x.sum((1, 2))


@pytest.mark.parametrize("rule", ["zero", "epsilon"])
def test_a_residual_stream_holds_no_layers_input(rule: str) -> None:
    """What a sum knows of its addends led to the layers before it, and those to what they read: 1.81 x on a ViT-B/16."""
    model = Stream().eval()
    UnifiedLRP(model, rule).attribute(torch.randn(2, 5, 6))
    assert not any(model.alive[:-1])
