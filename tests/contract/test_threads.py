"""Each pass hears itself alone: four threads explain as one does, passes within passes too, and no hook stays."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lrp_plugin import LayerUnifiedLRP, NeuronUnifiedLRP, UnifiedLRP


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 6), nn.ReLU(), nn.Linear(6, 2)
    ).double().eval()  # fmt: skip


def pictures(count: int, seed: int) -> Tensor:
    return torch.randn(count, 1, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def ways(model: nn.Sequential) -> list[Callable[[Tensor], Any]]:
    """Every way to explain, over explainers that all threads share."""
    plain, layer = UnifiedLRP(model, "zplus"), LayerUnifiedLRP(model, [model[0], model[4]])
    unit, inside = NeuronUnifiedLRP(model, model[4], rule="zplus"), NeuronUnifiedLRP(model, model[2])
    return [
        lambda x: plain.attribute(x, 1),
        lambda x: plain.ledger(x, 1).input,
        lambda x: torch.stack(list(plain.attribute_targets(x, [0, 1]))),
        lambda x: torch.cat([one.flatten(1) for one in layer.attribute(x, 1)], 1),
        lambda x: torch.cat([one.flatten(1) for one in layer.attribute(x, 1, attribute_to_layer_input=True)], 1),
        lambda x: unit.attribute(x, 3),
        lambda x: inside.attribute(x, lambda out: out.flatten(1).sum(1)),
    ]


def test_four_threads_explain_as_one_does() -> None:
    model = network()
    calls = ways(model)
    jobs = [(call, pictures(1 + k % 3, k)) for k in range(24) for call in calls]
    expected = [call(x) for call, x in jobs]
    start = threading.Barrier(4)
    with ThreadPoolExecutor(4, initializer=start.wait) as pool:
        found = list(pool.map(lambda job: job[0](job[1]), jobs))
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs)
    assert not hooks(model)
    assert sum(bool(one.abs().sum() > 0) for one in expected) > 0.9 * len(expected)


def test_a_plain_call_in_another_thread_is_not_heard() -> None:
    model, x = network(), pictures(2, 0)
    expected = LayerUnifiedLRP(model, model[4]).attribute(x, 1)
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            with torch.no_grad():
                model(pictures(3, 1))

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        for _ in range(20):
            torch.testing.assert_close(LayerUnifiedLRP(model, model[4]).attribute(x, 1), expected)
    finally:
        stop.set()
        thread.join()
    assert not hooks(model)


class Observer(TorchFunctionMode):
    """A user's mode inside the model, on top of the pass's own."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def test_a_pass_within_the_pass_and_a_mode_within_the_model_are_kept_apart() -> None:
    inner = network()

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.maps = inner, []

        def forward(self, x: Tensor) -> Tensor:
            with Observer():
                out = self.inner(x)
            self.maps.append(UnifiedLRP(self.inner).attribute(x.detach() * 2, 0))
            return out

    x = pictures(2, 0)
    found = LayerUnifiedLRP(Outer(), inner[4]).attribute(x, 1)
    torch.testing.assert_close(found, LayerUnifiedLRP(inner, inner[4]).attribute(x, 1))
    unit = NeuronUnifiedLRP(Outer(), inner[4]).attribute(x, 2)
    torch.testing.assert_close(unit, NeuronUnifiedLRP(inner, inner[4]).attribute(x, 2))
    assert not hooks(inner)


@pytest.mark.parametrize("layers", [[0, None], [None], [0, "conv"], [], 5, None])
def test_what_is_no_layer_is_refused_and_leaves_no_hook(layers: Any) -> None:
    model = network()
    given = [model[0] if one == 0 else one for one in layers] if isinstance(layers, list) else layers
    with pytest.raises(ValueError, match="layer is a"):
        LayerUnifiedLRP(model, given)
    with pytest.raises(ValueError, match="layer is a"):
        NeuronUnifiedLRP(model, given)
    assert not hooks(model)


def test_layers_exchanged_later_leave_no_hook_either() -> None:
    model = network()
    lrp = LayerUnifiedLRP(model, [model[0]])
    lrp.layer = [model[0], None]  # as TCAV sets it
    with pytest.raises(ValueError, match="layer is a NoneType"):
        lrp.attribute(pictures(1, 0), 0)
    assert not hooks(model)
