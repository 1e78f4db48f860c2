"""A module from torch.export calls ATen's overloads: each is the operation it is."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lrp_plugin import UnifiedLRP
from lrp_plugin.errors import UnsupportedOperationWarning
from lrp_plugin.propagation.spelling import spelling_of
from lrp_plugin.testing import assert_same_as

pytest.importorskip("expecttest", reason="torch's own table of samples needs it")
from operations import OneCall, calls

ROUNDED = {"float": 1e-5, "half": 1e-1, "bfloat16": 1e-1}
NOT_EXPORTED = {
    "tensor_split": "its places are data", "masked_select": "its size is data", "cov": "torch.export cannot trace it",
    "pad_packed_sequence": "torch.export cannot trace it",
    "pack_padded_sequence": "the exported module itself fails",
    **dict.fromkeys(
        ("rrelu", "dropout", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"), "draws at random"
    ),
    "max_unpool3d": "torch's sample writes one place twice",
}  # fmt: skip
SIZE = 12
EXPORTED = [name for name in calls() if name not in NOT_EXPORTED]


class Several(nn.Module):
    """Several operations beside each other, each on its own part of the input: torch.export takes its time once."""

    def __init__(self, parts: list[OneCall]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.sizes = [part.entries().shape[1] for part in parts]

    def entries(self) -> Tensor:
        return torch.cat([part.entries() for part in self.parts], 1)

    def forward(self, x: Tensor) -> Tensor:
        # Each piece in memory of its own: complex numbers begin at an even place.
        return torch.cat([part(piece.clone()) for part, piece in zip(self.parts, x.split(self.sizes, 1))], 1)


def exported(network: nn.Module, x: Tensor) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(network, (x,)).module()  # type: ignore[no-any-return]


STARTS = range(0, len(EXPORTED), SIZE)


@pytest.mark.parametrize(
    "start",
    [start if place % 5 == 0 else pytest.param(start, marks=pytest.mark.slow) for place, start in enumerate(STARTS)],
)
def test_an_exported_operation_is_the_operation(start: int) -> None:
    """Relevance of all parts at once, by epsilon; each operation's own account is held in test_every_rule."""
    names = EXPORTED[start : start + SIZE]
    network = Several([calls()[name] for name in names]).eval()
    x = network.entries()
    spelled = exported(network, x)
    wanted = UnifiedLRP(network, epsilon=0.1, output=lambda y: y.sum(1)).attribute(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnsupportedOperationWarning)
        found = UnifiedLRP(spelled, epsilon=0.1, output=lambda y: y.sum(1)).attribute(x)
    for name, one, meant in zip(names, found.split(network.sizes, 1), wanted.split(network.sizes, 1)):
        bound = ROUNDED.get(name, 1e-9) * float(meant.abs().max())
        torch.testing.assert_close(one, meant, rtol=0, atol=bound, msg=lambda text, name=name: f"{name}: {text}")


def test_how_many_operations_torch_export_takes() -> None:
    print(f"{len(EXPORTED)} registered operations run as exported, {len(NOT_EXPORTED)} do not")
    assert len(EXPORTED) >= 300


class Usual(nn.Module):
    """What a vision model and a transformer are made of; with writes in place, dropout and a causal mask."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.dense, self.layer_norm = nn.Linear(4, 6), nn.LayerNorm(6)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.block = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)
        self.recurrent, self.dropout = nn.LSTM(6, 5, batch_first=True), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.max_pool2d(functional.relu_(self.norm(self.convolution(x))), 2).flatten(2).transpose(1, 2)
        h = self.dense(h)
        h = self.block(self.layer_norm(h + self.attention(h, h, h, need_weights=False)[0]))
        h = self.dropout(self.recurrent(h)[0])
        h[:, 0] = 0
        return h[:, 1:].mean(1) + functional.scaled_dot_product_attention(h, h, h, is_causal=True)[:, -1]


OPTIONS = (
    {"rule": "epsilon"},
    {"rule": "zplus"},
    {"composite": "epsilon_plus_flat"},
    {"rule": "gamma", "bias": "distribute"},
)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_an_exported_model_is_the_model(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = Usual().double().eval()
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    assert_same_as(UnifiedLRP(model, **options), UnifiedLRP(exported(model, x), **options), x, target=1)


class Convolutions(nn.Module):
    """Convolutions, norms, pools and resizing."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.groups, self.back = nn.GroupNorm(2, 4), nn.ConvTranspose2d(4, 2, 2, stride=2)
        self.last = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.max_pool2d(functional.relu_(self.norm(self.first(x))), 2)
        h = functional.interpolate(functional.pad(self.back(self.groups(h)), (1, 1)), scale_factor=2)
        return self.last(functional.adaptive_avg_pool2d(functional.gelu(h), 1).flatten(1))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_model_in_core_aten_is_the_model(options: dict[str, Any]) -> None:
    """Behind ``run_decompositions()``: convolution, _native_batch_norm_legit_no_training, native_group_norm, addmm."""
    torch.manual_seed(0)
    model = Convolutions().double().eval()
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spelled = torch.export.export(model, (x,)).run_decompositions().module()
    assert_same_as(UnifiedLRP(model, **options), UnifiedLRP(spelled, **options), x, target=1)


def test_an_exported_language_model_has_relevance_at_its_tokens() -> None:
    """aten.embedding takes the table first, and marks "no padding" by -1."""
    torch.manual_seed(0)
    model = (
        nn.Sequential(nn.Embedding(7, 4, padding_idx=0), nn.Linear(4, 3), nn.Flatten(), nn.Linear(12, 2))
        .double()
        .eval()
    )
    ids = torch.tensor([[1, 6, 0, 3], [2, 2, 5, 1]])
    assert_same_as(UnifiedLRP(model), UnifiedLRP(exported(model, ids)), ids, target=1, tolerance=1e-10)


def test_an_exported_module_is_not_asked_for_eval() -> None:
    """It refuses eval(), and its operations say for themselves whether they train."""
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(), nn.Linear(3, 2)).eval()
    x = torch.randn(2, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        UnifiedLRP(torch.export.export(model, (x,)).module()).attribute(x, target=0)


def test_another_librarys_operator_is_not_taken_for_torchs() -> None:
    """``mine::relu`` has its own name, under which a rule for it is registered."""
    assert spelling_of(torch.ops.aten.relu.default).operation == spelling_of(torch.relu).operation == "relu"
    with torch.library._scoped_library("spelled_here", "DEF") as library:
        library.define("relu(Tensor x) -> Tensor")
        library.impl("relu", lambda x: x * 2, "CompositeImplicitAutograd")
        assert spelling_of(torch.ops.spelled_here.relu.default).operation == "spelled_here::relu"
        assert spelling_of(torch.ops.spelled_here.relu).operation == "spelled_here::relu"
