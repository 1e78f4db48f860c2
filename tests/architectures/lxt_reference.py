"""Run in a process of its own, for lxt patches torchvision's and torch's classes for good: lxt's relevance of a ViT.

    python lxt_reference.py cp|attn FOLDER

Reads the state and the images from FOLDER/given.pt, writes FOLDER/relevance.pt.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torchvision.models import vision_transformer

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


def without_its_language_models() -> None:
    """lxt 2.1 imports copies of Hugging Face's models that no longer load (transformers 5); the ViT needs none."""
    found = importlib.util.find_spec("lxt")
    assert found is not None and found.submodule_search_locations
    stand_in: Any = types.ModuleType("lxt.efficient.models")
    stand_in.__path__ = [str(Path(found.submodule_search_locations[0]) / "efficient" / "models")]
    stand_in.get_default_map = lambda module: {}
    sys.modules["lxt.efficient.models"] = stand_in


def patch(kind: str) -> None:
    """lxt's own patches: its map for ViT (CP-LRP in attention), or AttnLRP in attention by its own rules."""
    without_its_language_models()
    from lxt.efficient.core import monkey_patch
    from lxt.efficient.models import vit_torch
    from lxt.efficient.rules import divide_gradient

    chosen = dict(vit_torch.cp_LRP)
    if kind == "attn":
        del chosen[nn.MultiheadAttention]
        kernel = functional.scaled_dot_product_attention

        def halved(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            return kernel(divide_gradient(q, 4), divide_gradient(k, 4), divide_gradient(v, 2), *args, **kwargs)

        functional.scaled_dot_product_attention = halved
    monkey_patch(vision_transformer, chosen)


def main(kind: str, folder: Path) -> None:
    """Gradient times input through the patched classes."""
    patch(kind)
    given = torch.load(folder / "given.pt")
    model = network()
    model.load_state_dict(given["state"])
    images = given["images"].requires_grad_()
    output = model(images)
    output[:, 3].sum().backward()
    torch.save({"relevance": (images * images.grad).detach(), "output": output.detach()}, folder / "relevance.pt")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
