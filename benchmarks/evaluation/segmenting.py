"""A small U-Net that draws the opacities of synthetic radiographs, and the question put to it: why is this region opacity?"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from benchmarks.evaluation.networks import SIZE, TRAINING, batches, fit, kept, pictures


def _twice(below: int, above: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(below, above, 3, padding=1), nn.ReLU(), nn.Conv2d(above, above, 3, padding=1), nn.ReLU()
    )


class UNet(nn.Module):
    """Two steps down, two up, a skip at each: a logit for every pixel of grey pictures (N, 1, H, W) in [0, 1]."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first, self.second, self.bottom = _twice(1, width), _twice(width, 2 * width), _twice(2 * width, 4 * width)
        self.pool = nn.MaxPool2d(2)
        self.up_second, self.up_first = (nn.ConvTranspose2d(2 * k * width, k * width, 2, stride=2) for k in (2, 1))
        self.joined_second, self.joined_first = _twice(4 * width, 2 * width), _twice(2 * width, width)
        self.last = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 1, H, W)."""
        first = self.first((x - 0.5) / 0.25)
        second = self.second(self.pool(first))
        up = self.up_second(self.bottom(self.pool(second)))
        up = self.up_first(self.joined_second(torch.cat([second, up], 1)))
        return self.last(self.joined_first(torch.cat([first, up], 1)))


class Regions(nn.Module):
    """A segmentation as a classifier: output m is the mean logit over region m, one for each picture that is asked about.

    The regions are those that the network draws on the whole pictures, held while parts of a picture are removed.
    """

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        super().__init__()
        self.model = model
        with torch.no_grad():
            self.drawn = torch.cat([model(part) for part in images.split(50)]) > 0
        shares = self.drawn.flatten(1).to(images)
        self.register_buffer("shares", shares / shares.sum(1, keepdim=True).clamp(min=1))

    def forward(self, x: Tensor) -> Tensor:
        """Mean logits (N, M)."""
        return nn.functional.linear(self.model(x).flatten(1), self.shares)


def unet(seed: int) -> nn.Module:
    """A U-Net trained on the opacities' masks."""
    torch.manual_seed(seed)
    model, weight = UNet(), torch.tensor(2.0)  # opacities are 3 % of the pixels

    def losses() -> Iterator[Tensor]:
        images, _, masks = pictures(TRAINING, seed)
        for chosen, flip in batches(TRAINING, 25, seed):
            batch, wanted = images[chosen], masks[chosen].float()
            if flip:
                batch, wanted = batch.flip(-1), wanted.flip(-1)
            yield nn.functional.binary_cross_entropy_with_logits(model(batch), wanted, pos_weight=weight)

    return kept(f"unet-{SIZE}-{seed}", model, lambda: fit(model, losses(), 15 * TRAINING // 25, 3e-3))


def dice(drawn: Tensor, masks: Tensor) -> float:
    """Twice the overlap over the sum of both areas, over all pictures."""
    return float(2 * (drawn & masks).sum() / (drawn.sum() + masks.sum()))
