"""Several targets in one call, several parts of one call, the compiled pass: the numbers of plain calls."""

from __future__ import annotations

import gc
import warnings
import weakref

import pytest
import torch
from torch import nn

from lrp_plugin import UnifiedLRP
from lrp_plugin.fast.blockwise import BLOCK, blockwise


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    ).eval()  # fmt: skip


IMAGES = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["epsilon", "zplus", "gamma", "alphabeta", "flat"])
def test_targets_in_one_call_equal_one_call_each(name: str) -> None:
    lrp = UnifiedLRP(small_network(), name)
    targets = [0, 3, [0, 1, 2, 3], torch.tensor([4, 4, 0, 1])]
    together = lrp.attribute_targets(IMAGES, targets)
    assert together.shape == (4, *IMAGES.shape)
    for found, target in zip(together, targets):
        torch.testing.assert_close(found, lrp.attribute(IMAGES, target=target))


def test_targets_may_not_be_empty() -> None:
    with pytest.raises(ValueError, match="targets is empty"):
        UnifiedLRP(small_network()).attribute_targets(IMAGES, [])


@pytest.mark.parametrize("size", [1, 3, 4, 9])
def test_parts_of_a_batch_equal_the_whole(size: int) -> None:
    lrp = UnifiedLRP(small_network(), "zplus")
    whole, delta = lrp.attribute(IMAGES, [0, 1, 2, 3], return_convergence_delta=True)
    found, gaps = lrp.attribute(IMAGES, [0, 1, 2, 3], return_convergence_delta=True, internal_batch_size=size)
    torch.testing.assert_close(found, whole)
    torch.testing.assert_close(gaps, delta)


def test_nothing_of_a_call_stays_alive() -> None:
    lrp = UnifiedLRP(small_network(), "gamma")
    kept = []
    lrp.model[4].register_forward_hook(lambda module, given, out: kept.append(weakref.ref(out)))
    relevance = lrp.attribute(IMAGES, target=1)
    gc.collect()
    assert relevance.grad_fn is None
    assert kept[0]() is None


def test_blocks_equal_the_formula_in_one() -> None:
    x, y = torch.randn(2, 9 * BLOCK)
    assert torch.equal(blockwise(torch.mul, x, y), x * y)
    images = x[: 8 * BLOCK].view(4, 8, 128, -1)
    last = images.to(memory_format=torch.channels_last)
    found = blockwise(torch.add, last, last)
    assert torch.equal(found, images + images) and found.stride() == last.stride()


class _Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x if float(x.detach().sum()) > 0 else -x).flatten(1)[:, :3]


def test_a_model_that_cannot_be_traced_is_explained_eagerly_with_the_reason() -> None:
    lrp = UnifiedLRP(_Branching().eval(), compile=True)
    with pytest.warns(UserWarning, match="could not be traced"):
        found = lrp.attribute(IMAGES, target=1)
    torch.testing.assert_close(found, UnifiedLRP(_Branching().eval()).attribute(IMAGES, target=1))
    with warnings.catch_warnings():  # said once
        warnings.simplefilter("error")
        lrp.attribute(IMAGES, target=1)


def test_compile_names_its_legal_values() -> None:
    with pytest.raises(ValueError, match="reduce-overhead"):
        UnifiedLRP(small_network(), compile="fastest")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["epsilon", "zplus", "gamma", "gamma_montavon", "alphabeta", "flat"])
def test_compiled_equals_eager(name: str) -> None:
    model = small_network()
    compiled, eager = UnifiedLRP(model, name, compile=True), UnifiedLRP(model, name)
    # gamma_montavon is meant for non-negative input: on a signed one its denominators all but vanish, and in float32 the
    # eager pass itself is 2.3e-5 from the one in float64 (the compiled 1.1e-5).
    images = IMAGES.abs() if name == "gamma_montavon" else IMAGES
    compiled.attribute(images, target=0)  # traces
    for target in (0, 2, [0, 1, 2, 3], torch.tensor([4, 3, 2, 1])):
        found, expected = compiled.attribute(images, target), eager.attribute(images, target)
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    with torch.no_grad():
        model[0].weight.mul_(2)
    for _ in range(2):  # the call that traces again, and the graph it made
        found, expected = compiled.attribute(images, 1), eager.attribute(images, 1)
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    with pytest.raises(ValueError, match="out of range"):
        compiled.attribute(images, 5)


def test_targets_found_in_the_pass_that_is_explained() -> None:
    model = small_network()
    lrp = UnifiedLRP(model)
    seen = []
    hook = model.register_forward_hook(lambda *_: seen.append(1))

    def best_two(output: torch.Tensor) -> torch.Tensor:
        assert not output.requires_grad
        return output.topk(2).indices.T

    found = lrp.attribute_targets(IMAGES, best_two)
    hook.remove()
    assert len(seen) == 1
    wanted = best_two(model(IMAGES).detach())
    assert torch.equal(found, lrp.attribute_targets(IMAGES, wanted))
    with pytest.raises(ValueError, match="targets is empty"):
        lrp.attribute_targets(IMAGES, lambda output: [])
