"""Run in a process of its own, for lxt patches torchvision's and torch's classes for good: lxt's relevance of a ViT.

    python lxt_reference.py cp|attn FOLDER

Reads the state and the images from FOLDER/given.pt, writes FOLDER/relevance.pt.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn
from torchvision.models import vision_transformer

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a script, from anywhere
from benchmarks.lxt_peer import patch  # noqa: E402

SHAPE = {"image_size": 32, "patch_size": 8, "num_layers": 3, "num_heads": 4, "hidden_dim": 32, "mlp_dim": 48,
         "num_classes": 5}  # fmt: skip


def network() -> nn.Module:
    """torchvision's VisionTransformer, small, in float64, every vector drawn anew."""
    torch.manual_seed(0)
    model = vision_transformer.VisionTransformer(**SHAPE).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1 or not parameter.any():
                parameter.copy_(0.5 + 0.3 * torch.randn_like(parameter))
    return model


def main(kind: str, folder: Path) -> None:
    """Gradient times input through the patched classes."""
    patch({"cp": "CP-LRP", "attn": "AttnLRP"}[kind])
    given = torch.load(folder / "given.pt")
    model = network()
    model.load_state_dict(given["state"])
    images = given["images"].requires_grad_()
    output = model(images)
    output[:, 3].sum().backward()
    torch.save({"relevance": (images * images.grad).detach(), "output": output.detach()}, folder / "relevance.pt")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
