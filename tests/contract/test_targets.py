"""Targets in every form: which entry, which entries, of which examples; and what is refused in one line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lrp_plugin import LayerUnifiedLRP, UnifiedLRP
from lrp_plugin.errors import TargetError

N, C, H, W = 3, 4, 2, 5


def classifier() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, C)).double().eval()


def segmenter() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, C, 1)).double().eval()


X = torch.randn(N, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
IMAGES = torch.randn(N, 2, H, W, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
LISTED = [1, 3, 0]


def by_hand(model: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """Input times gradient of the outputs' sum, weighted."""
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((model(leaf) * weight).sum(), leaf)
    return x * gradient


@pytest.mark.parametrize(
    "target",
    [
        LISTED, [1, -1, -4], [(1,), (3,), (0,)], torch.tensor(LISTED), np.array(LISTED), list(np.array(LISTED)),
        [torch.tensor(place) for place in LISTED], torch.tensor(LISTED, dtype=torch.int32), np.array([1, -1, 0], np.int8),
        nn.functional.one_hot(torch.tensor(LISTED), C).bool(), [np.int64(1), 3, torch.tensor(-4)],
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [None, 1, 2])
def test_one_for_each_example_in_every_form(target: Any, size: int | None) -> None:
    expected = by_hand(classifier(), X, nn.functional.one_hot(torch.tensor(LISTED), C))
    lrp = UnifiedLRP(classifier(), "zero")
    found, delta = lrp.attribute(X, target, return_convergence_delta=True, internal_batch_size=size)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(delta, classifier()(X)[range(N), LISTED] - found.sum(1))
    torch.testing.assert_close(lrp.attribute_targets(X, [target])[0], expected)
    torch.testing.assert_close(lrp.ledger(X, target).input, expected.sum(1))
    model = classifier()
    at_input = LayerUnifiedLRP(model, model[0], rule="zero").attribute(X, target, attribute_to_layer_input=True)
    torch.testing.assert_close(at_input, expected)


@pytest.mark.parametrize(
    "target", [1, -3, (1,), [1], [-3], np.int64(1), np.array(1), torch.tensor(1), torch.tensor([1])]
)
@pytest.mark.parametrize("size", [None, 2])
def test_one_for_all_in_every_form(target: Any, size: int | None) -> None:
    weight = torch.zeros(C, dtype=torch.float64).index_fill_(0, torch.tensor(1), 1)
    found = UnifiedLRP(classifier(), "zero").attribute(X, target, internal_batch_size=size)
    torch.testing.assert_close(found, by_hand(classifier(), X, weight))


MASK = torch.zeros(H, W, dtype=torch.bool)
MASK[0, 1:3] = True
EACH = torch.stack([MASK, ~MASK, MASK.roll(1, 0)])
MANY = torch.rand(N, C, H, W, generator=torch.Generator().manual_seed(2)) > 0.5


def weights(classes: list[int], masks: Tensor) -> Tensor:
    """The entries explained, of shape (N, C, H, W)."""
    weight = torch.zeros(N, C, H, W, dtype=torch.float64)
    for row, (place, mask) in enumerate(zip(classes, masks.expand(N, H, W))):
        weight[row, place] = mask.double()
    return weight


@pytest.mark.parametrize(
    ("target", "weight"),
    [
        ((1, MASK), weights([1] * N, MASK)),
        ((-1, MASK.numpy()), weights([3] * N, MASK)),
        ((np.int64(2), EACH), weights([2] * N, EACH)),
        ((2, EACH[:1]), weights([2] * N, EACH[:1])),
        ([(1, EACH[0]), (0, EACH[1]), (3, EACH[2])], weights([1, 0, 3], EACH)),
        (MANY, MANY.double()),
        (MANY[0], MANY[:1].expand(N, C, H, W).double()),
        ((1, 0, 2), weights([1] * N, nn.functional.one_hot(torch.tensor(2), H * W).bool().view(H, W))),
        ((1, 0, MASK[0]), weights([1] * N, MASK)),
    ],
    ids=["mask", "numpy", "each", "one of one", "list", "whole", "whole for all", "place", "row"],
)
@pytest.mark.parametrize("size", [None, 2])
def test_masks_explain_the_sum_of_a_region(target: Any, weight: Tensor, size: int | None) -> None:
    expected = by_hand(segmenter(), IMAGES, weight)
    lrp = UnifiedLRP(segmenter(), "zero", strict=True)
    found, delta = lrp.attribute(IMAGES, target, return_convergence_delta=True, internal_batch_size=size)
    torch.testing.assert_close(found, expected)
    value = (segmenter()(IMAGES) * weight).flatten(1).sum(1)
    torch.testing.assert_close(delta, value - found.flatten(1).sum(1))
    ledger = lrp.ledger(IMAGES, target)
    torch.testing.assert_close(ledger.output, value)
    assert ledger.gap.abs().max() < 1e-12


@pytest.mark.parametrize("target", [(1, MASK), 2, LISTED])
@pytest.mark.filterwarnings("error:compile=")
def test_compiled_passes_take_masks_and_places(target: Any) -> None:
    pytest.importorskip("torch._inductor")
    model, x = (classifier(), X) if target is not None and not isinstance(target, tuple) else (segmenter(), IMAGES)
    lrp = UnifiedLRP(model, compile=True)
    for _ in range(2):
        torch.testing.assert_close(lrp.attribute(x, target), UnifiedLRP(model).attribute(x, target))


@pytest.mark.parametrize(
    "target",
    [
        True, (True,), [True, False, True], np.bool_(True), torch.tensor(True), [1.0, 2.0, 0.0], 1.0, "1", b"1", {1: 2}, {1},
        nn.functional.one_hot(torch.tensor(LISTED), C), nn.functional.one_hot(torch.tensor(LISTED), C).double(),
        torch.zeros(N, 1, dtype=torch.long), np.zeros((N, C)), torch.zeros(N, 224, 224), np.zeros((N, 224, 224), int),
        [None] * N, [], (), [1, 2], [[1], [2], [0]], C, -C - 1, [0, 0, C], (0, 0), torch.zeros(N, dtype=torch.bool),
        torch.zeros(N, C, dtype=torch.bool), range(3), [1, (1, MASK), 0], list(range(100_000)), "a" * 10_000,
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_target_is_refused_in_one_line(target: Any) -> None:
    lrp = UnifiedLRP(classifier())
    for call in (lrp.attribute, lrp.ledger, lambda x, t: lrp.attribute_targets(x, [t])):
        with pytest.raises(TargetError) as caught:
            call(X, target)
        message = str(caught.value)
        assert "\n" not in message and len(message) < 500 and "target" in message
        assert isinstance(caught.value, ValueError) and isinstance(caught.value, AssertionError)


@pytest.mark.parametrize(
    "target", [(1, MASK[0]), (1, MASK & False), (0, 0, 0, 0), 1, (1, 2), MASK[None], (1, EACH[:2])]
)
def test_masks_and_places_of_another_shape_are_refused(target: Any) -> None:
    with pytest.raises(TargetError, match="shape|False everywhere|places"):
        UnifiedLRP(segmenter()).attribute(IMAGES, target)


def test_a_class_number_for_a_map_hints_at_the_mask() -> None:
    with pytest.raises(TargetError, match=r"needs 3, or \(1, mask\) with a boolean mask of shape \(2, 5\)"):
        UnifiedLRP(segmenter()).attribute(IMAGES, 1)


def test_a_last_dimension_of_one_needs_no_place() -> None:
    model = nn.Sequential(classifier(), nn.Unflatten(1, (C, 1)))
    torch.testing.assert_close(UnifiedLRP(model).attribute(X, LISTED), UnifiedLRP(classifier()).attribute(X, LISTED))


@pytest.mark.parametrize("shape", [(), (1,)])
def test_one_number_needs_no_target(shape: tuple[int, ...]) -> None:
    net = classifier()
    lrp = UnifiedLRP(lambda x: net(x).sum().reshape(shape), "zero")
    found, delta = lrp.attribute(X, return_convergence_delta=True)
    torch.testing.assert_close(found, by_hand(net, X, torch.ones(())))
    torch.testing.assert_close(delta, net(X).sum()[None] - found.sum()[None])
    assert lrp.ledger(X).gap.abs().max() < 1e-12
    with pytest.raises(TargetError, match="leave target out"):
        lrp.attribute(X, 0)


def test_an_image_without_a_batch_dimension_is_named() -> None:
    torch.manual_seed(0)
    through = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(0), nn.Linear(4, 10)
    ).eval()
    image = torch.rand(3, 8, 8)
    for target in (None, 3):
        with pytest.raises(TargetError, match=r"batch dimension.*\[None\]"):
            UnifiedLRP(through).attribute(image, target)
    failing = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)).eval()
    with pytest.raises(ValueError, match=r"\(3, 8, 8\).*batch dimension; pass image\[None\] \(RuntimeError"):
        UnifiedLRP(failing).attribute(image, 3)
    assert UnifiedLRP(failing).attribute(image[None], 3).shape == (1, 3, 8, 8)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_place_of_any_output_is_that_entry(data: st.DataObject) -> None:
    rest = tuple(data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    count = int(np.prod(rest))
    model = nn.Sequential(nn.Linear(3, count, bias=False).double(), nn.Unflatten(1, rest))
    x = torch.arange(6.0, dtype=torch.float64).view(2, 3) - 2
    place = st.tuples(*(st.integers(-size, size - 1) for size in rest))
    chosen = data.draw(st.one_of(place, st.lists(place, min_size=2, max_size=2)))
    each = chosen if isinstance(chosen, list) else [chosen, chosen]
    wanted = torch.stack([model(x)[(row, *one)] for row, one in enumerate(each)])
    found = UnifiedLRP(model, "zero").attribute(x, chosen)
    torch.testing.assert_close(found.sum(1), wanted)


@pytest.mark.parametrize("place", [0, C - 1])
@pytest.mark.parametrize("count", [1, N])
@pytest.mark.parametrize("size", [None, 1, 2])
def test_a_target_counts_from_the_end_down_to_the_first(place: int, count: int, size: int | None) -> None:
    """``-C`` is class 0 and ``-1`` the last, as one for all, as a list of one and as one for each, whole or divided."""
    model, weight = classifier(), torch.zeros(C, dtype=torch.float64)
    weight[place] = 1
    expected = by_hand(model, X, weight)
    lrp, inner = UnifiedLRP(model, "zero"), LayerUnifiedLRP(model, model[0], rule="zero")
    for target in (place, place - C, [place - C], [place - C] * count, (place - C,), torch.tensor([place - C] * count)):
        torch.testing.assert_close(lrp.attribute(X, target, internal_batch_size=size), expected)
        torch.testing.assert_close(lrp.attribute_targets(X, [target])[0], expected)
        torch.testing.assert_close(lrp.ledger(X, target).output, model(X)[:, place])
        torch.testing.assert_close(inner.attribute(X, target, attribute_to_layer_input=True), expected)
    for beyond in (-C - 1, [-C - 1], [place] * (N - 1) + [-C - 1], C, [C]):
        with pytest.raises(TargetError, match=f"legal are 0 to {C - 1}, and -{C} to -1"):
            lrp.attribute(X, beyond, internal_batch_size=size)
