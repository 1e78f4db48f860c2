"""On ``meta`` nothing can be read: what runs there waits for no device, and goes the way that a GPU goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from lrp_plugin import LayerUnifiedLRP, NeuronUnifiedLRP, UnifiedLRP, list_composites
from lrp_plugin.attribution.unified import RULES
from lrp_plugin.composites.ready import epsilon_gamma_box

OPTIONS: dict[str, dict[str, Any]] = {
    **{name: {"rule": name} for name in RULES},
    **{f"{name} {mode}": {"rule": name, "bias": mode} for name in ("epsilon", "zplus") for mode in ("ignore", "distribute")},
    **{name: {"composite": name} for name in list_composites() if name != "epsilon_gamma_box"},
    "epsilon_gamma_box": {"composite": epsilon_gamma_box(-3.0, 3.0)},
}  # fmt: skip

OFTEN = ("epsilon", "zplus", "alphabeta", "gamma", "zplus distribute", "epsilon_plus_flat", "recurrent")


class Recurrent(nn.Module):
    """An embedding, two layers of a kernel in both directions, a dense layer."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 4)
        self.cells = kind(4, 5, 2, batch_first=True, bidirectional=True)
        self.dense = nn.Linear(10, 3)

    def forward(self, ids: Tensor) -> Tensor:
        """Scores (N, 3) of ids (N, T)."""
        return self.dense(self.cells(self.embedding(ids))[0][:, -1])


class Attending(nn.Module):
    """Attention, a softmax written by hand, a layer normalization, a power, a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.dense = nn.Linear(8, 3)
        self.exponent = nn.Parameter(torch.ones(8))
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        """Scores (N, 3) of sequences (N, T, 8)."""
        self.seen.add_(1)
        x = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        scores = x.sum(2).masked_fill(torch.zeros(x.shape[1], dtype=torch.bool, device=x.device), -torch.inf)
        shares = torch.exp(scores - scores.amax(1, keepdim=True).detach())
        pooled = (x * (shares / shares.sum(1, keepdim=True))[..., None]).sum(1)
        return self.dense(pooled.relu() ** self.exponent)


def convolutional() -> nn.Module:
    """Convolutions with and without BatchNorm, pooling, a dense layer."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, bias=False), nn.GELU(),
        nn.MaxPool2d(2), nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


SMALL: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], str]] = {
    "convolutional": (convolutional, lambda: torch.randn(2, 3, 24, 24), "3"),
    "attending": (Attending, lambda: torch.randn(2, 5, 8), "norm"),
    "LSTM": (lambda: Recurrent(nn.LSTM), lambda: torch.zeros(2, 6, dtype=torch.long), "dense"),
    "GRU": (lambda: Recurrent(nn.GRU), lambda: torch.zeros(2, 6, dtype=torch.long), "dense"),
    "RNN": (lambda: Recurrent(nn.RNN), lambda: torch.zeros(2, 6, dtype=torch.long), "dense"),
}
CLASSIFIERS = (
    "alexnet", "vgg11_bn", "resnet18", "resnext50_32x4d", "densenet121", "squeezenet1_1", "googlenet", "inception_v3",
    "mobilenet_v2", "mobilenet_v3_small", "mnasnet0_5", "shufflenet_v2_x0_5", "efficientnet_b0", "efficientnet_v2_s",
    "convnext_tiny", "vit_b_32", "swin_t", "swin_v2_t", "maxvit_t",
)  # fmt: skip
"""One of each of torchvision's families, but RegNet, whose builder itself reads a tensor."""

READS = ("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "cpu", "numpy")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of what read a tensor of another device than the CPU."""
    found: list[str] = []

    def watched(name: str) -> Callable[..., Any]:
        own = getattr(Tensor, name)

        def read(tensor: Tensor, *args: Any) -> Any:
            if tensor.device.type != "cpu":
                found.append(name)
            return own(tensor, *args)

        return read

    for name in READS:
        monkeypatch.setattr(Tensor, name, watched(name))
    yield found


def every_call(model: nn.Module, x: Tensor, layer: nn.Module, options: dict[str, Any]) -> None:
    """One call of each kind of explanation."""
    lrp = UnifiedLRP(model, **options)
    assert lrp.attribute(x, target=1).is_meta
    assert lrp.attribute(x, target=torch.ones(len(x), dtype=torch.long, device="meta")).is_meta
    assert lrp.attribute_targets(x, [0, 1]).shape[0] == 2
    assert LayerUnifiedLRP(model, layer, **options).attribute(x, target=1).is_meta
    assert NeuronUnifiedLRP(model, layer, **options).attribute(x, lambda out: out.flatten(1).sum(1)).is_meta


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "options", [one if one in OFTEN else pytest.param(one, marks=pytest.mark.slow) for one in OPTIONS]
)
@pytest.mark.parametrize("name", SMALL)
def test_no_call_reads_an_entry(name: str, options: str, reads: list[str]) -> None:
    build, given, layer = SMALL[name]
    with torch.device("meta"):
        model, x = build().eval(), given()
    every_call(model, x, model.get_submodule(layer), OPTIONS[options])
    assert reads == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SMALL)
def test_a_ledger_reads_in_no_pass_and_knows_no_number(name: str, reads: list[str]) -> None:
    build, given, _ = SMALL[name]
    with torch.device("meta"):
        model, x = build().eval(), given()
    account = UnifiedLRP(model).ledger(x, target=1)
    assert reads == []
    assert account.rows and account.gap.isnan().all()
    assert any(row.relevance_out.isnan().all() for row in account.rows)  # an operation that nothing reaches has 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_no_family_reads_an_entry(name: str, reads: list[str]) -> None:
    kwargs: dict[str, Any] = {"aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    with torch.device("meta"):
        model = getattr(torchvision.models, name)(weights=None, **kwargs).eval()
        side = 299 if name == "inception_v3" else 224
        x = torch.randn(1, 3, side, side)
    # By exact type: an attention's output projection is a subclass that does not run as a module.
    maps = [module for module in model.modules() if type(module) in (nn.Conv2d, nn.Linear)]
    for options in OPTIONS.values():
        every_call(model, x, maps[len(maps) // 2], options)
    UnifiedLRP(model).ledger(x, target=1)
    assert reads == []
