"""A trained network: EfficientNet-lite0 on mosaics of photographs (extra ``real``; no map was seen before the choice)."""

from __future__ import annotations

import pytest
import torch
from lite0 import EDGE, efficientnet_lite0, scaled
from photographs import PHOTOGRAPHS, mosaic, mosaics, picture, quarter
from torch import Tensor, nn

from lrp_plugin import Composite, UnifiedLRP, composites
from lrp_plugin.composites import linear_maps, rule
from lrp_plugin.composites.ready import LRP_CMP_PRESETS

pytestmark = pytest.mark.slow
LOW, HIGH = -127 / 128, 1.0


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return efficientnet_lite0().float().requires_grad_(False)


def best(logits: Tensor, name: str) -> int:
    """Of the classes that name a photograph, the one the network prefers."""
    return max(PHOTOGRAPHS[name].classes, key=lambda number: float(logits[number]))


def test_each_photographs_class_is_right_alone(network: nn.Module) -> None:
    assert len(PHOTOGRAPHS) >= 8
    for name, photograph in PHOTOGRAPHS.items():
        assert int(network(scaled(picture(name, EDGE)[None]).float()).argmax()) in photograph.classes, name


def shares(network: nn.Module, composite: Composite) -> Tensor:
    """Part of the positive relevance in the target's own quarter, for each photograph of each mosaic."""
    lrp, found = UnifiedLRP(network, composite=composite), []
    for names in mosaics():
        x = scaled(mosaic(names, EDGE)[None]).float()
        logits = network(x)[0]
        maps = lrp.attribute_targets(x, [best(logits, name) for name in names])
        for place, relevance in enumerate(maps):
            positive = relevance[0].sum(0).clamp(min=0)
            found.append(positive[quarter(place, EDGE)].sum() / positive.sum())
    return torch.stack(found)


def test_positive_relevance_lies_in_the_targets_own_quarter(network: nn.Module) -> None:
    """Mean share over 8 mosaics with 4 targets each (chance .25): .655 for epsilon_plus_flat, .360 for LRP-0."""
    assert float(shares(network, composites.epsilon_plus_flat()).mean()) >= 0.65
    plain = float(shares(network, Composite([(linear_maps(), rule("zero"))])).mean())
    assert plain < 0.45, "gradient x input should not find the quarters: the test would say nothing"


CONSERVING = {
    name: getattr(composites, name)(bias="distribute")
    for name in ("epsilon_plus", "epsilon_plus_flat", "epsilon_alpha2_beta1", "epsilon_alpha2_beta1_flat",
                 "deep_taylor", "attnlrp", "attnlrp_gamma", "cp_lrp")
}  # fmt: skip
CONSERVING |= {f"lrp_cmp {preset}": composites.lrp_cmp(preset, bias="distribute") for preset in LRP_CMP_PRESETS}
CONSERVING["epsilon_gamma_box"] = composites.epsilon_gamma_box(LOW, HIGH, bias="distribute")


@pytest.mark.parametrize("name", sorted(CONSERVING))
def test_distribute_brings_the_logit_to_the_pixels(network: nn.Module, name: str) -> None:
    """0.95 <= sum R / logit <= 1.05 and everything finite: every photograph alone, and one mosaic."""
    lrp = UnifiedLRP(network, composite=CONSERVING[name])
    pictures = [picture(photograph, EDGE) for photograph in PHOTOGRAPHS] + [mosaic(mosaics()[0], EDGE)]
    for one in pictures:
        x = scaled(one[None]).float()
        logit, target = network(x)[0].max(0)
        relevance = lrp.attribute(x, target=int(target))
        assert torch.isfinite(relevance).all()
        assert 0.95 <= float(relevance.sum() / logit) <= 1.05
