"""Captum's own tests run on this package: its LRP and gradient methods replaced by ours, rules translated.

    git clone https://github.com/pytorch/captum; python tests/contract/captums_own.py CAPTUM_CHECKOUT [pytest options]

Nothing of Captum's tests is kept here. What does not pass is named, with the reason, in docs/coming-from-captum.md.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import captum.attr
import pytest
import torch
from captum.attr._core import input_x_gradient, lrp
from captum.attr._core.layer import layer_gradient_x_activation, layer_lrp
from torch import nn

from lrp_plugin import LayerUnifiedLRP, UnifiedLRP

FILES = (
    "attr/test_lrp.py", "attr/layer/test_layer_lrp.py", "attr/test_targets.py", "attr/test_hook_removal.py",
    "attr/test_data_parallel.py", "attr/test_input_x_gradient.py", "attr/layer/test_layer_gradient_x_activation.py",
)  # fmt: skip
CAPTUMS_EPSILON = 1e-9
CAPTUMS = layer_gradient_x_activation.LayerGradientXActivation


class LRP(UnifiedLRP):
    """``captum.attr.LRP``: its epsilon."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, epsilon=CAPTUMS_EPSILON)


class LayerLRP(LayerUnifiedLRP):
    """``captum.attr.LayerLRP``: its epsilon, and its arguments."""

    def __init__(self, model: nn.Module, layer: Any) -> None:
        super().__init__(model, layer, epsilon=CAPTUMS_EPSILON)


class InputXGradient(UnifiedLRP):
    """``captum.attr.InputXGradient`` by LRP-0: equal on piecewise linear models."""

    def __init__(self, forward_func: Any) -> None:
        super().__init__(forward_func, rule="zero")


class LayerGradientXActivation(LayerUnifiedLRP):
    """``captum.attr.LayerGradientXActivation`` by LRP-0, its positional arguments in Captum's order."""

    def __new__(cls, *args: Any, multiply_by_inputs: bool = True, **options: Any) -> Any:
        """Ours; a gradient that is not multiplied by the activation is no relevance, and stays Captum's."""
        if not multiply_by_inputs:
            return CAPTUMS(*args, multiply_by_inputs=False, **options)
        return super().__new__(cls)

    def __init__(self, forward_func: Any, layer: Any, device_ids: Any = None, multiply_by_inputs: bool = True) -> None:
        super().__init__(forward_func, layer, device_ids, rule="zero")

    @torch._disable_dynamo  # type: ignore[attr-defined,misc]
    def attribute(  # type: ignore[override]
        self, inputs: Any, target: Any = None, additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False, grad_kwargs: Any = None,
    ) -> Any:  # fmt: skip
        """In Captum's order."""
        return super().attribute(
            inputs, target, additional_forward_args, attribute_to_layer_input=attribute_to_layer_input,
            grad_kwargs=grad_kwargs,
        )  # fmt: skip


def replace() -> None:
    """Puts ours in Captum's places, before its tests import them."""
    for place, ours in (
        (lrp, LRP), (layer_lrp, LayerLRP), (input_x_gradient, InputXGradient),
        (layer_gradient_x_activation, LayerGradientXActivation),
    ):  # fmt: skip
        setattr(place, ours.__name__, ours)
        setattr(captum.attr, ours.__name__, ours)


def main(checkout: str, options: list[str]) -> int:
    """Runs the tests of a checkout; pytest's return code."""
    tests = Path(checkout) / "tests"
    replace()
    return int(pytest.main([*(str(tests / name) for name in FILES), "-q", "-p", "no:cacheprovider", *options]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
