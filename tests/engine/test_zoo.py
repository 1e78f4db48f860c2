"""Every classification network of torchvision: relevance is conserved, and the model left as it was."""

from __future__ import annotations

import pytest
import torch
from zoo import BUILDERS, FAMILIES, GIANTS, PIECEWISE_LINEAR, build, edge_of, images

from lrp_plugin import UnifiedLRP
from lrp_plugin.testing.laws import (
    assert_conserves,
    assert_equals_gradient_x_input,
    assert_model_untouched,
    assert_repeatable,
)

LARGE = tuple(name for name in BUILDERS if name not in GIANTS)
SLOW_ORACLE = tuple(name for name in PIECEWISE_LINEAR if name not in ("alexnet", "resnet18", "squeezenet1_1"))
LONG = ("efficientnet_v2_s", "inception_v3", "maxvit_t", "resnext50_32x4d", "vgg11", "wide_resnet50_2")
SOFTMAX = ("vit", "swin", "maxvit")


def check(name: str, size: int) -> None:
    """The ledger closes in every row for epsilon = 0 and 0.01, and nothing of the user's has changed."""
    model, inputs = build(name, size), images(name, size)
    with torch.no_grad():
        target = model(inputs).argmax(1).tolist()  # SqueezeNet ends in a ReLU: other logits may be dead
    for epsilon in (0.0, 0.01):
        lrp = UnifiedLRP(model, epsilon=epsilon, strict=True)
        allowed = () if not name.startswith(SOFTMAX) else ("softmax", "scaled_dot_product_attention")
        ledger = assert_conserves(lrp, inputs, target, allowed_other=allowed)
        print(
            f"{name:20} {size:4} epsilon {epsilon:4} gap {float(ledger.gap.abs().max()):.1e} "
            f"logit {float(ledger.output[0]):9.2e} input {float(ledger.input[0]):9.2e} "
            f"other {float(ledger.other.abs().max()):.1e} rows {len(ledger.rows)}"
        )
    with torch.no_grad():
        assert_model_untouched(lrp, inputs, target)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.ci] if name in LONG else []) for name in FAMILIES]
)
def test_relevance_is_conserved_in_each_family(name: str) -> None:
    check(name, FAMILIES[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_relevance_is_conserved_in_every_network(name: str) -> None:
    check(name, edge_of(name))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW_ORACLE else []) for name in PIECEWISE_LINEAR]
)
def test_lrp_0_is_gradient_times_input(name: str) -> None:
    size = PIECEWISE_LINEAR[name]
    assert_equals_gradient_x_input(UnifiedLRP(build(name, size), rule="zero"), images(name, size), target=[3, 5])


def test_a_second_call_gives_the_same_bits() -> None:
    model, inputs = build("resnet18", 64), images("resnet18", 64)
    for rule in ("epsilon", "zplus", "gamma", "alphabeta"):
        assert_repeatable(UnifiedLRP(model, rule=rule), inputs, target=[3, 5])


def test_the_zoo_is_complete() -> None:
    assert len(BUILDERS) == 80
    assert set(FAMILIES) | set(PIECEWISE_LINEAR) <= set(BUILDERS)
