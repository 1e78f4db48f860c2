"""The small networks of the tables, trained here on synthetic radiographs, one file for each network and seed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import DenseNet, VisionTransformer, resnet18

from lrp_plugin.cxr import SyntheticCXR
from lrp_plugin.cxr.models import ReferenceCNN

SIZE = 64
TRAINING, TESTING, TEST_SEED = 1200, 400, 77
FOLDER = Path(os.environ.get("LRP_PLUGIN_NETWORKS", Path.home() / ".cache" / "lrp_plugin_evaluation"))


class Grey(nn.Module):
    """A network for three channels, given grey pictures (N, 1, H, W) in [0, 1]."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 4)."""
        return self.backbone(((x - 0.5) / 0.25).expand(-1, 3, -1, -1))


def _vit() -> nn.Module:
    return Grey(VisionTransformer(SIZE, 8, 4, 4, 96, 192, num_classes=4))


def _plain() -> nn.Module:
    """Convolutions with biases, ReLU and max-pooling, then dense layers, as VGG; no normalization, no skip."""
    layers: list[nn.Module] = []
    for below, above in ((3, 8), (8, 16), (16, 32)):
        for channels in (below, above):
            layers += [nn.Conv2d(channels, above, 3, padding=1), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
    head = [nn.Flatten(), nn.Linear(32 * (SIZE // 8) ** 2, 64), nn.ReLU(), nn.Linear(64, 4)]
    return Grey(nn.Sequential(*layers, *head))


def _densenet() -> nn.Module:
    return Grey(DenseNet(growth_rate=12, block_config=(3, 3, 3), num_init_features=16, num_classes=4))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "reference_cnn": lambda: ReferenceCNN(4),
    "resnet18": lambda: Grey(resnet18(num_classes=4)),
    "vit": _vit,
    "plain": _plain,
    "densenet": _densenet,
}
EPOCHS = {"reference_cnn": 12, "resnet18": 8, "vit": 60, "plain": 15, "densenet": 15}
RATES = {"reference_cnn": 3e-3, "resnet18": 1e-3, "vit": 1e-3, "plain": 2e-3, "densenet": 3e-3}


def pictures(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Synthetic radiographs: pictures (N, 1, H, W) in [0, 1], classes (N,), masks of the opacities (N, 1, H, W)."""
    data = SyntheticCXR(count, seed=seed, size=SIZE)
    samples = [data[index] for index in range(count)]
    images = torch.stack([sample["image"].as_subclass(Tensor) for sample in samples]).float()
    masks = torch.stack([sample["evidence"].as_subclass(Tensor) for sample in samples]).bool()
    return images, torch.stack([sample["disease"] for sample in samples]), masks


def trained(name: str, seed: int = 0) -> nn.Module:
    """A network in evaluation mode, trained at its first use (minutes) and read from `FOLDER` afterwards."""
    torch.manual_seed(seed)
    model = NETWORKS[name]()
    return kept(f"{name}-{SIZE}-{seed}", model, lambda: _train(model, name, seed))


def kept(name: str, model: nn.Module, train: Callable[[], None]) -> nn.Module:
    """The model with the weights in `FOLDER` under this name; they are trained where there are none."""
    path = FOLDER / f"{name}.pt"
    if not path.exists():
        train()
        FOLDER.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        torch.save(model.state_dict(), temporary)
        os.replace(temporary, path)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def accuracy(model: nn.Module, images: Tensor, classes: Tensor) -> float:
    """Share of right answers."""
    with torch.no_grad():
        found = torch.cat([model(part).argmax(1) for part in images.split(100)])
    return float((found == classes).float().mean())


def fit(model: nn.Module, losses: Iterator[Tensor], steps: int, rate: float) -> None:
    """So many steps down losses that are made one after another; the rate rises to ``rate`` and falls to 0."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    model.train()
    for loss in islice(losses, steps):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


def batches(count: int, size: int, seed: int) -> Iterator[tuple[Tensor, bool]]:
    """Indices of a batch and whether to flip it, without end; every epoch in an order of its own."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        for chosen in torch.randperm(count, generator=generator).split(size):
            yield chosen, bool(torch.rand((), generator=generator) < 0.5)


def _train(model: nn.Module, name: str, seed: int) -> None:
    images, classes, _ = pictures(TRAINING, seed)

    def losses() -> Iterator[Tensor]:
        for chosen, flip in batches(TRAINING, 50, seed):
            batch = images[chosen]
            logits = model(batch.flip(-1) if flip else batch)
            yield nn.functional.cross_entropy(logits, classes[chosen], label_smoothing=0.05)

    fit(model, losses(), EPOCHS[name] * (TRAINING // 50), RATES[name])
