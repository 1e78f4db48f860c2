"""Tensors of the package's own are made where the model's are, or on the CPU by name: a default device changes nothing.

The default is ``meta`` here, whose tensors hold no data: one that is made without a device cannot be used at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lrp_plugin import LayerUnifiedLRP, NeuronUnifiedLRP, UnifiedLRP

OPTIONS: list[dict[str, Any]] = [
    *({"rule": name} for name in ("epsilon", "zplus", "gamma", "gamma_montavon", "alphabeta", "flat", "wsquare")),
    *({"composite": name} for name in ("epsilon_plus_flat", "attnlrp_gamma", "arras", "cp_lrp", "deep_taylor")),
    {"rule": "epsilon", "bias": "distribute"},
]


class Tagger(nn.Module):
    """Tokens through recurrent kernels of both kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)
        self.lstm = nn.LSTM(4, 4, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(8, 4, batch_first=True)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.gru(self.lstm(self.embed(ids))[0])[0][:, -1])


class Packed(nn.Module):
    """A recurrent kernel over packed sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.tensor([3, 2], device="cpu")
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        return self.head(self.lstm(packed)[1][0][-1])


def network(kind: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    if kind == "tokens":
        return Tagger().eval(), torch.randint(0, 9, (2, 5))
    if kind == "packed":
        return Packed().eval(), torch.randn(2, 3, 4)
    if kind == "attention":
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
        return nn.Sequential(layer, nn.Flatten(), nn.Linear(40, 3)).eval(), torch.randn(2, 5, 8)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3),
        nn.GroupNorm(2, 4), nn.GELU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 3), nn.Softplus(),
    )  # fmt: skip
    return model.eval(), torch.rand(2, 1, 8, 8)


@pytest.fixture
def elsewhere() -> Iterator[None]:
    yield
    torch.set_default_device(None)  # a device by name would stay on the stack of modes


@pytest.mark.parametrize("kind", ["tokens", "packed", "attention", "images"])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options.values())))
def test_a_default_device_changes_nothing(elsewhere: None, kind: str, options: dict[str, Any]) -> None:
    model, x = network(kind)
    first = next(model.children())

    def everything() -> list[Tensor]:
        lrp = UnifiedLRP(model, **options)
        found, delta = lrp.attribute(x, 1, return_convergence_delta=True)
        ledger = lrp.ledger(x, 1)
        targets = lrp.attribute_targets(x, [0, [1, 2]])
        layer = LayerUnifiedLRP(model, first, **options).attribute(x, 1)
        unit = NeuronUnifiedLRP(model, first, **options).attribute(
            x, lambda out: (out[0] if isinstance(out, tuple) else out).flatten(1)[:, 1]
        )
        return [
            found,
            delta,
            ledger.input,
            ledger.absorbed,
            targets,
            *(layer if isinstance(layer, tuple) else [layer]),
            unit,
        ]

    expected = everything()
    torch.set_default_device("meta")
    found = everything()
    torch.set_default_device(None)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs)
