"""Every error: a clear message, and nothing of the user's changed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lrp_plugin import UnifiedLRP, UnsupportedOperationError, UnsupportedOperationWarning
from lrp_plugin.testing import assert_conserves, assert_model_untouched


class Halved(torch.autograd.Function):
    """A custom function: only the operations inside its forward are seen as calls."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 0.5

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient * 0.5


class Net(nn.Module):
    """conv, BatchNorm, dropout, then ``middle``, then a linear layer."""

    def __init__(self, middle: Callable[[Tensor], Tensor] | nn.Module = functional.relu) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.middle = middle if isinstance(middle, nn.Module) else Called(middle)
        self.head = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.drop(self.norm(self.conv(x)))).flatten(1))


class Called(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def net(middle: Any = functional.relu) -> Net:
    torch.manual_seed(0)
    return Net(middle).double().eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "epsilonn"}, "unknown rule 'epsilonn'; legal are alphabeta, .*epsilon, .*zplus"),
        ({"rule": "relu"}, "unknown rule"),
        ({"rule": "attnlrp"}, "unknown rule 'attnlrp' .'attnlrp' is a composite: composite='attnlrp'.; legal are"),
        ({"composite": "epsilon_pluss"}, "unknown composite 'epsilon_pluss'; legal are .*epsilon_plus"),
        ({"rule": "alphabeta", "alpha": 2.0, "beta": 0.5}, r"alpha=2.0, beta=0.5: legal are alpha - beta = 1"),
        ({"rule": "alphabeta", "alpha": 0.5, "beta": -0.5}, "beta >= 0"),
        ({"epsilon": -0.1}, "epsilon=-0.1: legal are numbers >= 0"),
        ({"epsilon": float("nan")}, "epsilon=nan: legal are numbers >= 0"),
        ({"gamma": -1.0}, "gamma=-1.0: legal are numbers >= 0"),
        ({"stabilizer": -1e-9}, "stabilizer=-1e-09: legal are numbers >= 0"),
        ({"bias": "drop"}, "bias='drop'; legal are 'absorb', 'ignore', 'distribute'"),
    ],
)
def test_settings_out_of_range_name_the_legal_ones(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UnifiedLRP(net(), **settings)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (3, "target 3 is out of range: legal are 0 to 2"),
        (-4, "target -4 is out of range"),
        ([0, 7], "target 7 is out of range"),
        ([0, 1, 2], "3 targets for 2 examples"),
        ((0, 1), r"target \(0, 1\) has 2 places, the output of shape \(2, 3\) needs 1"),
        (torch.tensor([0, 5]), "target 5 is out of range"),
        (None, r"returns shape \(2, 3\): pass target="),
        ("cat", "target 'cat'.*int"),
        (1.5, "target 1.5.*int"),
    ],
)
def test_wrong_targets_are_named(images: Tensor, target: Any, message: str) -> None:
    lrp = UnifiedLRP(net())
    with pytest.raises(ValueError, match=message):
        assert_model_untouched(lrp, images, target)
    with pytest.raises(ValueError, match=message):
        lrp.ledger(images, target)


@pytest.mark.parametrize("place", [float("nan"), float("inf")])
def test_inputs_that_are_not_finite_are_refused(images: Tensor, place: float) -> None:
    images[1, 0, 2, 2] = place
    with pytest.raises(ValueError, match=r"input 0 of shape \(2, 2, 4, 4\) holds NaN or infinite entries"):
        assert_model_untouched(UnifiedLRP(net()), images, 0)
    images[0, 0, 0, 0] = -place  # their sum is NaN
    with pytest.raises(ValueError, match="holds NaN or infinite entries"):
        UnifiedLRP(net()).attribute(images, target=0)


def test_finite_inputs_whose_sum_overflows_are_explained() -> None:
    large = torch.full((2, 3), torch.finfo(torch.float32).max / 2)
    assert torch.isinf(large.sum())
    relevance = UnifiedLRP(lambda x: (x * 1e-30).sum(1), "zero").attribute(large)
    torch.testing.assert_close(relevance, large * 1e-30)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("image.png", "inputs must be a tensor or a tuple of tensors, got str"),
        ((), "got nothing"),
        (torch.zeros(2, 2, 4, 4, dtype=torch.bool), "torch.bool; legal are floating point"),
        (torch.zeros(2, 2, 4, 4, dtype=torch.complex64), "complex64; legal are floating point"),
        (torch.zeros(()), "dimension"),
        (torch.zeros(0, 2, 4, 4, dtype=torch.float64), "no example"),
    ],
)
def test_inputs_of_another_kind_are_refused(inputs: Any, message: str) -> None:
    for call in (UnifiedLRP(net()).attribute, UnifiedLRP(net()).ledger):
        with pytest.raises(ValueError, match=message):
            call(inputs, 0)


def test_a_call_whose_inputs_differ_in_rows_is_not_divided(images: Tensor) -> None:
    with pytest.raises(ValueError, match="have 2 and 1 rows: leave it out"):
        UnifiedLRP(lambda a, b: a.sum((1, 2, 3)) + b.sum()).attribute((images, images[:1]), internal_batch_size=1)


def test_integers_that_reach_no_embedding_are_refused() -> None:
    class Counts(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return (tokens > 3).double().mean(1)

    with pytest.raises(ValueError, match="integer inputs must reach an embedding"):
        assert_model_untouched(UnifiedLRP(Counts().eval()), torch.randint(0, 9, (2, 5)))


@pytest.mark.parametrize(
    "middle",
    [lambda x: x.detach(), lambda x: torch.zeros_like(x), lambda x: torch.relu(x.data), lambda x: x.round().sign()],
    ids=["detached", "zeros", "data", "sign"],
)
def test_an_output_that_does_not_depend_on_the_input_is_an_error(images: Tensor, middle: Any) -> None:
    with pytest.raises(ValueError, match="does not depend on the explained input"):
        assert_model_untouched(UnifiedLRP(net(middle)), images, 0)


def test_a_forward_under_no_grad_is_an_error(images: Tensor) -> None:
    @torch.no_grad()
    def forward(x: Tensor) -> Tensor:
        return torch.relu(x * 2)

    with pytest.raises(ValueError, match=r"torch.no_grad\(\)"):
        assert_model_untouched(UnifiedLRP(net(forward)), images, 0)


def test_a_custom_function_is_named(images: Tensor) -> None:
    model = net(Halved.apply)
    with pytest.warns(UnsupportedOperationWarning, match=r"HalvedBackward.*custom autograd.Function"):
        assert_model_untouched(UnifiedLRP(model), images, 0)
    with pytest.raises(UnsupportedOperationError, match=r"HalvedBackward"):
        assert_model_untouched(UnifiedLRP(model, strict=True), images, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnsupportedOperationWarning)
        ledger = UnifiedLRP(model).ledger(images, 0)
    assert float(ledger.gap.abs().max()) < 1e-12
    assert any("HalvedBackward" in row.operation for row in ledger.rows)


@pytest.mark.parametrize("make", [torch.jit.script, lambda m: torch.jit.trace(m, torch.zeros(2, 4, 4, 4).double())])
@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning", "ignore:.*is deprecated:DeprecationWarning")
def test_a_scripted_or_traced_part_is_named(images: Tensor, make: Any) -> None:
    inner = make(nn.Sequential(nn.Conv2d(4, 4, 1), nn.GELU()).double().eval())
    model = net(inner)
    with pytest.warns(UnsupportedOperationWarning, match="scripted or traced part, or what ran in another thread"):
        assert_model_untouched(UnifiedLRP(model), images, 0)
    with pytest.raises(UnsupportedOperationError, match="scripted or traced part, or what ran in another thread"):
        assert_model_untouched(UnifiedLRP(model, strict=True), images, 0)


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning", "ignore:.*is deprecated:DeprecationWarning")
def test_a_model_that_is_a_script_is_named(images: Tensor) -> None:
    script = torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(32, 3)).double().eval())
    with pytest.warns(UnsupportedOperationWarning, match="scripted or traced part, or what ran in another thread"):
        UnifiedLRP(script).attribute(images, 0)
    with pytest.raises(UnsupportedOperationError, match="scripted or traced part, or what ran in another thread"):
        UnifiedLRP(script, strict=True).attribute(images, 0)


def test_an_unknown_operation_is_named_with_its_module(images: Tensor) -> None:
    model = net(lambda x: torch.special.i0(x))
    message = r"operation 'special_i0' in module 'middle'.*register"
    with pytest.raises(UnsupportedOperationError, match=message):
        assert_model_untouched(UnifiedLRP(model, strict=True), images, 0)
    lrp = UnifiedLRP(model)
    with pytest.warns(UnsupportedOperationWarning, match=message):
        lrp.attribute(images, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lrp.attribute(images, 0)  # warned once
    (row,) = [row for row in assert_conserves(lrp, images, 0, allowed_other=["special_i0"]).rows if row.unknown]
    assert row.path == "middle"
    assert float(row.other.abs().min()) > 0


def test_a_model_in_training_mode_is_explained_as_evaluating(images: Tensor) -> None:
    model = net()
    expected = UnifiedLRP(model).attribute(images, 0)
    model.train()
    model.conv.eval()
    lrp = UnifiedLRP(model)
    with pytest.warns(UserWarning, match="Net is in training mode"):
        assert_model_untouched(lrp, images, 0)
    with pytest.warns(UserWarning, match="training mode"):
        assert torch.equal(lrp.attribute(images, 0), expected)
    assert (model.training, model.conv.training, model.norm.training) == (True, False, True)


def test_inference_mode_is_left_inside_the_call(images: Tensor) -> None:
    lrp = UnifiedLRP(net())
    expected = lrp.attribute(images, 0)
    with torch.inference_mode():
        made_inside = images.clone()
        assert torch.equal(lrp.attribute(made_inside, 0), expected)
        assert float(lrp.ledger(made_inside, 0).gap.abs().max()) < 1e-12
        assert torch.is_inference_mode_enabled()
    with torch.no_grad():
        assert torch.equal(lrp.attribute(images, 0), expected)
        assert not torch.is_grad_enabled()


def test_a_model_whose_forward_enters_inference_mode_is_an_error(images: Tensor) -> None:
    def forward(x: Tensor) -> Tensor:
        with torch.inference_mode():
            return torch.relu(x)

    with pytest.raises(ValueError, match="inference_mode"):
        assert_model_untouched(UnifiedLRP(net(forward)), images, 0)


def test_a_model_made_in_inference_mode_is_explained(images: Tensor) -> None:
    with torch.inference_mode():
        model = net()
    expected = UnifiedLRP(net()).attribute(images, 0)
    assert torch.equal(UnifiedLRP(model).attribute(images, 0), expected)


def test_an_exception_inside_the_model_leaves_no_state(images: Tensor) -> None:
    def fails(x: Tensor) -> Tensor:
        raise RuntimeError("the model's own failure")

    model = net(fails)
    model.train()
    for call in ("attribute", "ledger"):
        lrp = UnifiedLRP(model)
        run = partial(getattr(lrp, call), images, 0)
        with pytest.warns(UserWarning), pytest.raises(RuntimeError, match="own failure"):
            assert_model_untouched(lrp, images, 0, call=run)
    assert not torch.overrides._get_current_function_mode_stack()
    assert not torch.is_inference_mode_enabled()
    healthy = net()
    assert torch.equal(UnifiedLRP(healthy).attribute(images, 0), UnifiedLRP(net()).attribute(images, 0))


def test_no_tensor_in_the_output_is_an_error(images: Tensor) -> None:
    with pytest.raises(ValueError, match="the model returned a str, without any of logits"):
        UnifiedLRP(lambda x: "dog").attribute(images, 0)


def test_a_model_that_ends_in_softmax_is_noted(images: Tensor) -> None:
    model = nn.Sequential(net(), nn.Softmax(1)).eval()
    with pytest.warns(UserWarning, match="softmax.*logit before it is usually wanted"):
        UnifiedLRP(model).attribute(images, 0)


def test_out_arguments_are_refused_by_name(images: Tensor) -> None:
    def forward(x: Tensor) -> Tensor:
        held = torch.empty_like(x.detach())
        torch.add(x, x, out=held)
        return held

    with pytest.raises(UnsupportedOperationError, match="'add' in module 'middle' writes a signal into out="):
        assert_model_untouched(UnifiedLRP(net(forward)), images, 0)


def test_an_output_of_whole_numbers_has_no_relevance_and_is_named() -> None:
    class Rounded(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x)

    with pytest.raises(ValueError, match=r"the model returned int64: only floating-point numbers are explained"):
        UnifiedLRP(Rounded().eval()).attribute(torch.tensor([[1, 2, 3]]), 1)
