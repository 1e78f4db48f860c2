"""One thread, and the small models and data that the tests of PyHealth's spelling share."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib
import pytest
import torch
from torch import Tensor, nn

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class SmallCNN(nn.Module):
    """Two convolutions with BatchNorm, four classes; ``forward(x)``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(6)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, 3, H, W)`` to ``(N, 4)``."""
        first = self.pool(self.relu(self.bn1(self.conv1(x))))
        return self.fc(self.relu(self.conv2(first)).mean((2, 3)))


@pytest.fixture
def cnn() -> nn.Module:
    torch.manual_seed(0)
    model = SmallCNN()
    with torch.no_grad():
        model.bn1.running_mean.normal_()
        model.bn1.bias.normal_()
    return model.eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(1))
