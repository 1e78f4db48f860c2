"""The small networks of the tables, trained here on synthetic radiographs, one file for each network and seed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer, resnet18

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


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "reference_cnn": lambda: ReferenceCNN(4),
    "resnet18": lambda: Grey(resnet18(num_classes=4)),
    "vit": _vit,
}
EPOCHS = {"reference_cnn": 12, "resnet18": 8, "vit": 60}
RATES = {"reference_cnn": 3e-3, "resnet18": 1e-3, "vit": 1e-3}


def pictures(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Synthetic radiographs: pictures (N, 1, H, W) in [0, 1], classes (N,), masks of the opacities (N, 1, H, W)."""
    data = SyntheticCXR(count, seed=seed, size=SIZE)
    samples = [data[index] for index in range(count)]
    images = torch.stack([sample["image"].as_subclass(Tensor) for sample in samples]).float()
    masks = torch.stack([sample["evidence"].as_subclass(Tensor) for sample in samples]).bool()
    return images, torch.stack([sample["disease"] for sample in samples]), masks


def trained(name: str, seed: int = 0) -> nn.Module:
    """A network in evaluation mode, trained at its first use (minutes) and read from `FOLDER` afterwards."""
    path = FOLDER / f"{name}-{SIZE}-{seed}.pt"
    torch.manual_seed(seed)
    model = NETWORKS[name]()
    if not path.exists():
        _train(model, name, seed)
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


def _train(model: nn.Module, name: str, seed: int) -> None:
    images, classes, _ = pictures(TRAINING, seed)
    epochs, size = EPOCHS[name], 50
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATES[name], weight_decay=0.05)
    steps = epochs * (len(images) // size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATES[name], total_steps=steps)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(images), generator=generator).split(size):
            batch = images[chosen]
            if torch.rand((), generator=generator) < 0.5:
                batch = batch.flip(-1)
            loss = nn.functional.cross_entropy(model(batch), classes[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
