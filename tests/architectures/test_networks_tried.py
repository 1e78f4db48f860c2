"""Families beside torchvision's classifiers: the ledger closes, and the forward pass is the model's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from networks_tried import (
    DETECTION,
    SEGMENTATION,
    TIMM,
    VIDEO,
    Interpolated,
    UNet,
    first_scores,
    images,
    one_dimensional,
    stirred,
    three_dimensional,
    transposed,
)
from torch import Tensor, nn

from lrp_plugin import UnifiedLRP
from lrp_plugin.attribution.inputs import chosen_output


def closes(model: nn.Module, x: Tensor, target: Any, **options: Any) -> None:
    """The ledger closes to 1e-9 of float64, relevance arrives, and the explained number is the model's own."""
    lrp = UnifiedLRP(stirred(model), strict=True, **options)
    ledger = lrp.ledger(x, target=target)
    assert ledger.gap.abs().max() < 1e-9
    assert lrp.attribute(x, target=target).abs().sum() > 0
    with torch.no_grad():
        plain = model(x)
    plain = plain if isinstance(plain, Tensor) else chosen_output(plain, options.get("output", "out"))
    places = target if isinstance(target, tuple) else (target,)
    torch.testing.assert_close(ledger.output, plain[(slice(None), *places)], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("upsample", [transposed, Interpolated])
def test_u_net(upsample: Callable[[int, int], nn.Module]) -> None:
    closes(UNet(upsample), images(16), (1, 3, 4))


def test_a_mask_of_pixels_is_a_target() -> None:
    """A class's scores added up over a mask: the sum of what its pixels have."""
    model, x = stirred(UNet(transposed)), images(16)
    mask = torch.zeros(16, 16, dtype=torch.float64)
    mask[3, 4] = mask[9, 12] = 1
    whole = UnifiedLRP(model, output=lambda scores: (scores[:, 1] * mask).sum((1, 2))).attribute(x)
    lrp = UnifiedLRP(model)
    parts = lrp.attribute(x, (1, 3, 4)) + lrp.attribute(x, (1, 9, 12))
    torch.testing.assert_close(whole, parts, rtol=1e-9, atol=1e-12)
    assert whole.abs().sum() > 0


def test_one_and_three_dimensions() -> None:
    closes(one_dimensional(), torch.randn(2, 2, 40).double(), 1)
    closes(three_dimensional(), torch.randn(2, 1, 8, 8, 8).double(), 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", SEGMENTATION)
def test_torchvision_segmentation(name: str) -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=4)
    closes(model, images(64), (1, 30, 33))


@pytest.mark.slow
@pytest.mark.parametrize("name", VIDEO)
def test_torchvision_video(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torchvision = pytest.importorskip("torchvision")
    frames, size = VIDEO[name]
    builder = torchvision.models.video.mvit._mvit
    # mvit's builders fix 16 frames of 224 pixels; everything else stays theirs.
    smaller = {"spatial_size": (size, size), "temporal_size": frames}
    monkeypatch.setattr(torchvision.models.video.mvit, "_mvit", lambda **named: builder(**{**named, **smaller}))
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None, num_classes=5)
    closes(model, torch.randn(1, 3, frames, size, size).double(), 1)


@pytest.mark.parametrize("name", [DETECTION[0], pytest.param(DETECTION[1], marks=pytest.mark.slow)])
def test_torchvision_detector_s_class_score(name: str) -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    options = {"box_score_thresh": 0.0, "min_size": 64, "max_size": 64} if "rcnn" in name else {"score_thresh": 0.0}
    model = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=4, **options)
    # LRP-0: behind so many layers of random weights the pre-activations are below every usual epsilon.
    closes(model, images(64), 1, output=first_scores, rule="zero")


@pytest.mark.architectures_extra
@pytest.mark.parametrize("family", TIMM)
def test_timm(family: str) -> None:
    timm = pytest.importorskip("timm", reason="needs the extra 'peers' (timm)")
    name, size = TIMM[family]
    torch.manual_seed(0)
    closes(timm.create_model(name, num_classes=5), images(size), 1)


@pytest.mark.architectures_extra
def test_torchxrayvision() -> None:
    xrv = pytest.importorskip("torchxrayvision", reason="needs torchxrayvision")
    torch.manual_seed(0)
    closes(xrv.models.DenseNet(weights=None, num_classes=3), torch.randn(1, 1, 64, 64).double(), 1)


@pytest.mark.architectures_extra
def test_torchxrayvision_autoencoder() -> None:
    xrv = pytest.importorskip("torchxrayvision", reason="needs torchxrayvision")
    torch.manual_seed(0)
    model = xrv.autoencoders.ResNetAE(weights=None)
    closes(model, torch.randn(1, 1, 224, 224).double(), (0, 100, 120), output="out")
    closes(model, torch.randn(1, 1, 224, 224).double(), (3, 2, 1), output="z")
