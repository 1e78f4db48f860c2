"""`epsilon_plus` on every torchvision classifier: what reaches the pixels has neither exploded nor vanished."""

from __future__ import annotations

import pytest
import torch
from zoo import BUILDERS, build, images

from lrp_plugin import UnifiedLRP, composites
from lrp_plugin.ledger import ABSORBED

SIZES = {"inception_v3": 75, "vit_h_14": 70}
"""Pixels where 64 does not fit: Inception's pools, patches of 14. BatchNorm's statistics are those of 8 images."""
VANISHES = {"efficientnet_b7": "constant"}
"""Networks whose input receives less than 1e-6 of the logit with absorbing biases, and the ledger's column that took it.

Constant: each squeeze-excitation gate gets half of its product's relevance, and the sigmoid's f(0) = 1/2 keeps most of
that; EfficientNet-B7 has 55 of them (1.8e-7 of the logit arrives; B5 1.2e-6 with 39)."""

SHRINKS = {"vit_b_32": "other", "maxvit_t": "other"}
"""Networks whose input receives less than half of the logit with distributed biases, and the column that took most.

Other: softmax's second-order part, 49 % of the logit among ViT-B/32's five tokens of a picture of 64 pixels (0.47
arrives; at 128 pixels 0.60), 54 % among MaxViT's windows of 2 x 2 (0.46 arrives)."""


def relevance_sizes(name: str) -> dict[str, float]:
    """sum|R| / |logit| of the top class by bias mode, float32; where it is too small, the ledger's columns as well."""
    size = SIZES.get(name, 64)
    model, x = build(name, size, torch.float32).requires_grad_(False), images(name, size, 1, torch.float32)
    with torch.no_grad():
        logit, target = model(x)[0].max(0)
    found = {}
    for bias in ("absorb", "distribute"):
        lrp = UnifiedLRP(model, composite=composites.epsilon_plus(bias=bias))
        relevance = lrp.attribute(x, target=int(target))
        assert torch.isfinite(relevance).all(), bias
        found[bias] = float(relevance.abs().double().sum() / logit.abs())
    lost = "absorb" if found["absorb"] < 1e-6 else "distribute" if found["distribute"] < 0.5 else None
    if lost is not None:
        account = UnifiedLRP(model, composite=composites.epsilon_plus(bias=lost)).ledger(x, target=int(target))
        found |= {column: float(getattr(account, column)[0] / account.output[0]) for column in ABSORBED}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILDERS)
def test_relevance_keeps_its_scale(name: str) -> None:
    """1e-6 <= sum|R| / |logit| <= 1e2 with absorbing biases, 0.5 <= ... <= 1e2 with distributed ones."""
    found = relevance_sizes(name)
    print(name, {key: f"{value:.3g}" for key, value in found.items()})
    assert found["absorb"] <= 1e2 and found["distribute"] <= 1e2
    assert (found["absorb"] < 1e-6) == (name in VANISHES), found
    assert (found["distribute"] < 0.5) == (name in SHRINKS), found
    reason = VANISHES.get(name) or SHRINKS.get(name)
    assert reason is None or max(ABSORBED, key=lambda column: abs(found[column])) == reason
