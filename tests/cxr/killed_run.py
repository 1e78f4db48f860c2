"""A training run to be killed: ``python killed_run.py OUTPUT WORKERS KIND``; says when it reads."""

from __future__ import annotations

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from lrp_plugin.cxr import SyntheticCXR, Trainer, cxr_transforms, get_dataloader

EPOCHS = 4


class Announced(Dataset):
    """Says on stdout that a sample was read, so that the killer can choose its moment."""

    def __init__(self) -> None:
        self.pictures = SyntheticCXR(24, size=32, transform=cxr_transforms())

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> dict:
        print("read", flush=True)
        return self.pictures[index]


def main(output: str, workers: int, kind: str) -> dict[str, torch.Tensor]:
    """Train, from the last checkpoint if there is one; the final weights."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 5, stride=4),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(196, 4),
    )
    if kind == "own":
        loader = get_dataloader(Announced(), 4, True, num_workers=workers)
    else:
        loader = DataLoader(Announced(), 4, shuffle=True)
    trainer = Trainer(net, output=output, progress=False, device="cpu")
    val = get_dataloader(SyntheticCXR(8, seed=1, size=32), 8)
    trainer.train(loader, val, epochs=EPOCHS, resume="auto", load_best=False)
    return net.state_dict()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
