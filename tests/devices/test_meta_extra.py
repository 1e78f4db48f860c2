"""Hugging Face's and timm's families on ``meta``: needs the extra ``peers``; run with ``-m architectures_extra``.

Not here: GPT-2's and T5's classifiers, whose own forward reads a tensor (where the end token stands).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lrp_plugin import UnifiedLRP

sys.path.append(str(Path(__file__).parents[1] / "architectures"))
from huggingface import MODELS  # noqa: E402
from networks_tried import TIMM  # noqa: E402

pytestmark = [pytest.mark.architectures_extra, pytest.mark.filterwarnings("ignore")]
OPTIONS: tuple[dict[str, Any], ...] = (
    {"rule": "epsilon"}, {"rule": "zplus"}, {"rule": "alphabeta"}, {"rule": "gamma"}, {"composite": "attnlrp"},
    {"composite": "cp_lrp"}, {"composite": "epsilon_plus_flat"}, {"rule": "epsilon", "bias": "distribute"},
)  # fmt: skip


def explained(model: nn.Module | Callable[..., Any], given: Any, target: Any) -> None:
    """Every option runs where nothing can be read."""
    for options in OPTIONS:
        found = UnifiedLRP(model, **options).attribute(given, target=target)
        assert all(one.is_meta for one in (found if isinstance(found, tuple) else (found,)))


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("gpt2", "t5")])
def test_hugging_faces_families(name: str) -> None:
    pytest.importorskip("transformers", reason="needs the extra 'peers' (transformers)")
    make, inputs, target = MODELS[name]
    model = make("sdpa")
    given = tuple(one.to("meta", torch.float32 if one.is_floating_point() else one.dtype) for one in inputs())
    explained(model.float().to("meta").eval(), given if len(given) > 1 else given[0], target)


@pytest.mark.parametrize("name", TIMM)
def test_timms_families(name: str) -> None:
    timm = pytest.importorskip("timm", reason="needs the extra 'peers' (timm)")
    builder, side = TIMM[name]
    model: nn.Module = timm.create_model(builder, pretrained=False).to("meta").eval()
    images: Tensor = torch.empty(1, 3, side, side, device="meta")
    explained(model, images, 1)
