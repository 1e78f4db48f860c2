"""A traced pass after its rewrites gives the numbers of the eager one, before any compiler sees it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from lrp_plugin import UnifiedLRP
from lrp_plugin.fast.graphs import simplify

IMAGES = torch.randn(2, 3, 20, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Shared(nn.Module):
    """A convolution read by a BatchNorm and by something else: nothing may be folded into it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4 * 18 * 18, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 20, 20) to (N, 5)."""
        z = self.conv(x)
        return self.head(torch.cat([(z + self.norm(z)).relu()], 1).flatten(1))


class Tokens(nn.Module):
    """Patches, a transformer layer (packed projections, GELU behind a map), a pool with a learned exponent."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.exponent = nn.Conv2d(3, 8, 5, 5), nn.Parameter(torch.tensor(2.5))
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu", norm_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 20, 20) to (N, 5)."""
        h = self.layer(self.patches(x).flatten(2).transpose(1, 2))
        return self.head(h.clamp(min=1e-3).pow(self.exponent).mean(1))


def networks() -> dict[str, nn.Module]:
    return {
        "strided image layer": nn.Sequential(
            nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1),
            nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.BatchNorm2d(8), nn.ReLU6(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(32, 5),
        ),
        "pre-activation": nn.Sequential(
            nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, affine=False), nn.AvgPool2d(18),
            nn.Flatten(), nn.Linear(6, 5),
        ),
        "one dimension": nn.Sequential(
            nn.Flatten(2), nn.Conv1d(3, 4, 9, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(524, 5)
        ),
        "shared": Shared(),
        "tokens": Tokens(),
    }  # fmt: skip


def randomize_(model: nn.Module) -> nn.Module:
    """In place: BatchNorm's statistics and every parameter, none of them zero or one."""
    torch.manual_seed(0)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.randn_like(tensor)
            tensor.copy_(1 + noise.square() if "running_var" in name else tensor + 0.3 * noise)
    return model


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[GraphModule]]:
    """The graphs handed to the compiler, which hands them back as they are."""
    handed: list[GraphModule] = []

    def keep(graph: GraphModule, **_: object) -> GraphModule:
        handed.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", keep)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the eager fallback warns
        yield handed


@pytest.mark.parametrize("rule", ["epsilon", "zplus", "gamma", "gamma_montavon", "alphabeta", "wsquare"])
@pytest.mark.parametrize("name", networks())
def test_rewritten_graph_gives_the_eager_numbers(name: str, rule: str, graphs: list[GraphModule]) -> None:
    model = randomize_(networks()[name].double()).eval()
    compiled, eager = UnifiedLRP(model, rule, compile=True), UnifiedLRP(model, rule)
    for target in (0, [1, 4]):
        found, expected = compiled.attribute(IMAGES, target), eager.attribute(IMAGES, target)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    called = [str(node.target) for node in graphs[0].graph.nodes]
    assert len(graphs) == 1
    assert not [target for target in called if "batch_norm" in target or "rsqrt" in target]


def test_model_is_left_as_it_was(graphs: list[GraphModule]) -> None:
    model = randomize_(networks()["strided image layer"].double()).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    lrp = UnifiedLRP(model, "zplus", compile=True)
    for _ in range(3):
        lrp.attribute(IMAGES, 1)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.is_contiguous() for parameter in model.parameters())


def test_what_is_written_to_is_no_constant() -> None:
    """A value made from constants alone that a later call adds to would grow from call to call if it were kept."""
    weight = torch.randn(3)

    def grown(x: Tensor) -> Tensor:
        return x * weight.abs().add_(1)

    graph = simplify(make_fx(grown)(torch.ones(3)))
    expected = grown(torch.ones(3))
    for _ in range(3):
        torch.testing.assert_close(graph(torch.ones(3)), expected)


def test_random_numbers_are_drawn_anew() -> None:
    weight = torch.full((50,), 0.5)
    graph = simplify(make_fx(lambda x: x + torch.bernoulli(weight))(torch.zeros(50)))
    assert len({tuple(graph(torch.zeros(50)).tolist()) for _ in range(4)}) > 1


def test_a_constant_that_the_graph_writes_to_is_none() -> None:
    """Its value is what the last write left, not what it was made with."""

    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weight", torch.ones(3, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            held = self.weight * 2
            held.add_(x)
            return held * self.weight + held

    x = torch.arange(3, dtype=torch.float64)
    graph = make_fx(Written())(x)
    assert any("add_" in str(node.target) for node in graph.graph.nodes)
    for _ in range(2):
        torch.testing.assert_close(simplify(graph)(x), Written()(x), rtol=0, atol=0)
