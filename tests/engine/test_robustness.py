"""However a model is spelled, wrapped or called: one relevance, and nothing left behind."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from lrp_plugin import UnifiedLRP, UnsupportedOperationError
from lrp_plugin.testing import assert_conserves, assert_equals_gradient_x_input, assert_model_untouched

RULES = ("epsilon", "zplus", "gamma", "alphabeta")


class Net(nn.Module):
    """conv, ``middle``, linear; double precision, evaluation mode."""

    def __init__(self, middle: Callable[[Tensor], Any], first: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 6, 3, padding=1)
        self.head = nn.Linear(96, 3)
        self.middle = middle
        self.first = first
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        if self.first is not None:
            x = self.first(x)
        return self.head(self.middle(self.conv(x)).flatten(1))


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def twice(h: Tensor) -> Tensor:
    h += h
    return h


def first_half_written(h: Tensor) -> Tensor:
    out = torch.zeros_like(h)
    out[:, :3] = h[:, :3]
    out[:, 3:] = h[:, 3:] * 2
    return out


def rectified_slice(h: Tensor) -> Tensor:
    h[:, 0].mul_(3.0)
    h[:, 1:4] = functional.relu(h[:, 1:4])
    return h


def rectified_slice_plain(h: Tensor) -> Tensor:
    return torch.cat([h[:, :1] * 3.0, functional.relu(h[:, 1:4]), h[:, 4:]], 1)


def through_a_view(h: Tensor) -> Tensor:
    view = h.view(2, -1)
    functional.relu(h, inplace=True)
    view[:, :10] *= 2
    return h


def through_a_view_plain(h: Tensor) -> Tensor:
    flat = functional.relu(h).flatten(1)
    return torch.cat([flat[:, :10] * 2, flat[:, 10:]], 1)


def through_a_base(h: Tensor) -> Tensor:
    view = h[:, :2]
    h.mul_(2.0)
    return torch.cat([view, h[:, 2:]], 1)


def overwritten_before_use(h: Tensor) -> Tensor:
    kept = h * 1
    h.zero_()
    h += kept
    return h


def copied(h: Tensor) -> Tensor:
    held = torch.empty_like(h)
    held.copy_(h)
    return held.relu_()


def masked(h: Tensor) -> Tensor:
    h[h < 0] = 0.0
    return h


SPELLINGS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "relu_": (lambda h: h.relu_(), functional.relu),
    "torch.relu_": (torch.relu_, functional.relu),
    "F.relu(inplace)": (lambda h: functional.relu(h, inplace=True), functional.relu),
    "nn.ReLU(inplace)": (nn.ReLU(inplace=True), functional.relu),
    "nn.ReLU twice": (nn.Sequential(*[nn.ReLU()] * 2), functional.relu),
    "clamp_(min=0)": (lambda h: h.clamp_(min=0), lambda h: torch.clamp(h, min=0)),
    "maximum": (lambda h: torch.maximum(h, torch.zeros_like(h)), functional.relu),
    "where": (lambda h: torch.where(h > 0, h, 0.0), functional.relu),
    "mask": (masked, functional.relu),
    "+=": (twice, lambda h: h + h),
    "add_": (lambda h: h.add_(h.relu()), lambda h: h + functional.relu(h)),
    "add_(alpha)": (lambda h: h.add_(h, alpha=0.5), lambda h: 1.5 * h),
    "Tensor.__add__": (lambda h: h.__add__(h), lambda h: torch.add(h, h)),
    "sum([...])": (lambda h: sum([h, h.relu()]), lambda h: h + functional.relu(h)),
    "h[:, :3] = ...": (first_half_written, lambda h: torch.cat([h[:, :3], h[:, 3:] * 2], 1)),
    "slices of itself": (rectified_slice, rectified_slice_plain),
    "through a view": (through_a_view, through_a_view_plain),
    "through a base": (through_a_base, lambda h: h * 2),
    "zero_ then +=": (overwritten_before_use, lambda h: h * 1),
    "copy_": (copied, functional.relu),
    "dropout(inplace)": (lambda h: functional.dropout(h, 0.5, False, inplace=True), lambda h: h),
    "dropout of a view": (lambda h: functional.dropout(h.flatten(1), 0.5, False, inplace=True), lambda h: h),
    "reshape": (lambda h: h.reshape(2, 6, -1).transpose(1, 2).permute(0, 2, 1).view(2, -1), lambda h: h),
    "chunk, cat": (lambda h: torch.cat(torch.chunk(h, 3, 1), 1), lambda h: h),
    "unbind, stack": (lambda h: torch.stack(h.unbind(1), 1), lambda h: h),
    "@": (lambda h: h @ torch.eye(4, dtype=h.dtype), lambda h: h.matmul(torch.eye(4, dtype=h.dtype))),
    "F.conv2d": (
        lambda h: functional.conv2d(input=h, weight=torch.ones(6, 1, 1, 1, dtype=h.dtype), groups=6),
        lambda h: h,
    ),  # fmt: skip
    "max_pool methods": (
        lambda h: nn.MaxPool2d(3, 1, 1)(h),
        lambda h: functional.max_pool2d(h, kernel_size=3, stride=1, padding=1),
    ),  # fmt: skip
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("rule", ["epsilon", "zplus"])
def test_a_spelling_gives_the_plain_ones_relevance(images: Tensor, spelling: str, rule: str) -> None:
    spelled, plain = SPELLINGS[spelling]
    amount = {"epsilon": 0.0} if rule == "epsilon" else {}
    model, twin = Net(spelled), Net(plain)
    lrp = UnifiedLRP(model, rule=rule, **amount, strict=True)
    assert torch.allclose(lrp.model(images), twin(images), rtol=1e-12), "the two compute different things"
    if spelling == "F.conv2d" and rule == "zplus":
        amount = {}  # one more map of weights one: z+ is the identity there only for positive entries
    else:
        expected = UnifiedLRP(twin, rule=rule, **amount).attribute(images, 1)
        assert torch.allclose(lrp.attribute(images, 1), expected, rtol=1e-9, atol=1e-12)
    if rule == "epsilon":
        assert_equals_gradient_x_input(UnifiedLRP(twin, rule="zero"), images, 1)
    assert_conserves(lrp, images, 1, allowed_other=())
    assert_model_untouched(lrp, images, 1)


@pytest.mark.parametrize(
    "first",
    [lambda x: x.mul_(2.0), lambda x: x.relu_(), lambda x: functional.relu(x, inplace=True), lambda x: x.sub_(0.1)],
    ids=["mul_", "relu_", "F.relu", "sub_"],
)
def test_the_users_input_is_never_written(images: Tensor, first: Any) -> None:
    model = Net(functional.relu, first)
    plain = Net(functional.relu, lambda x: first(x.clone()))
    lrp = UnifiedLRP(model, epsilon=0.0)
    assert_model_untouched(lrp, images, 0)
    assert torch.allclose(lrp.attribute(images, 0), UnifiedLRP(plain, epsilon=0.0).attribute(images, 0), rtol=1e-12)
    leaf = images.clone().requires_grad_()
    lrp.attribute(leaf, 0)
    assert leaf.grad is None
    assert torch.equal(leaf, images)


def test_a_slice_of_the_input_written_in_place(images: Tensor) -> None:
    def first(x: Tensor) -> Tensor:
        x[:, 0].mul_(2.0)
        x[:, 1] = 0.0
        return x

    model = Net(functional.relu, first)
    lrp = UnifiedLRP(model, epsilon=0.0)
    assert_model_untouched(lrp, images, 0)
    assert_conserves(lrp, images, 0)
    assert float(lrp.attribute(images, 0)[:, 1].abs().max()) == 0.0


class Counter(nn.Module):
    """Keeps a count and its last activation in buffers, as some trackers do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(6, dtype=torch.float64))

    def forward(self, h: Tensor) -> Tensor:
        self.count += 1
        self.mean.mul_(0.9).add_(0.1 * h.mean((0, 2, 3)))
        return functional.relu(h) + self.mean.view(1, -1, 1, 1) * 0


def test_buffers_that_the_forward_writes_stay_as_they_were(images: Tensor) -> None:
    lrp = UnifiedLRP(Net(Counter()))
    for call in (lrp.attribute, lrp.ledger, lrp.plan):
        assert_model_untouched(lrp, images, call=lambda run=call: run(images) if run == lrp.plan else run(images, 0))
    assert torch.equal(lrp.attribute(images, 0), UnifiedLRP(Net(functional.relu)).attribute(images, 0))


def test_frozen_parameters_change_nothing(images: Tensor) -> None:
    model = Net(functional.relu)
    for rule in RULES:
        expected = UnifiedLRP(model.requires_grad_(True), rule=rule).attribute(images, 0)
        assert torch.equal(UnifiedLRP(model.requires_grad_(False), rule=rule).attribute(images, 0), expected)


def test_data_parallel_and_compiled_models_are_unwrapped(images: Tensor) -> None:
    model = Net(functional.relu)
    expected = UnifiedLRP(model).attribute(images, 0)
    assert torch.equal(UnifiedLRP(nn.DataParallel(model)).attribute(images, 0), expected)
    assert torch.equal(UnifiedLRP(torch.compile(model)).attribute(images, 0), expected)


@pytest.mark.parametrize("rule", RULES)
def test_gradient_checkpointing_without_reentry(images: Tensor, rule: str) -> None:
    inner = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(6, 6, 1)).double().eval()
    expected = UnifiedLRP(Net(inner), rule=rule).attribute(images, 0)
    model = Net(lambda h: checkpoint(inner, h, use_reentrant=False))
    lrp = UnifiedLRP(model, rule=rule)
    assert torch.equal(lrp.attribute(images, 0), expected)
    assert_conserves(lrp, images, 0, allowed_other=())


def test_gradient_checkpointing_with_reentry_is_named(images: Tensor) -> None:
    model = Net(lambda h: checkpoint(nn.ReLU(), h, use_reentrant=True))
    with pytest.raises(UnsupportedOperationError, match=r"use_reentrant=False"):
        assert_model_untouched(UnifiedLRP(model), images, 0)


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, parametrizations.spectral_norm])
@pytest.mark.parametrize("rule", RULES)
def test_parametrized_weights_are_coefficients(images: Tensor, wrap: Any, rule: str) -> None:
    model = Net(functional.relu)
    wrap(model.conv)
    model.eval()
    plain = Net(functional.relu)
    with torch.no_grad():
        plain.conv.weight.copy_(model.conv.weight)
    lrp = UnifiedLRP(model, rule=rule)
    assert torch.allclose(lrp.attribute(images, 0), UnifiedLRP(plain, rule=rule).attribute(images, 0), rtol=1e-10)
    assert_model_untouched(lrp, images, 0)


@dataclass
class Output:
    """As Hugging Face's models return."""

    logits: Tensor
    hidden: Tensor


@pytest.mark.parametrize(
    "pack",
    [lambda t: {"logits": t}, lambda t: Output(t, t), lambda t: (t, 1), lambda t: [t]],
    ids=["dict", "dataclass", "tuple", "list"],
)
def test_packed_outputs(images: Tensor, pack: Any) -> None:
    model = Net(functional.relu)

    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> Any:
            return pack(self.inner(x))

    expected = UnifiedLRP(model).attribute(images, 0)
    assert torch.equal(UnifiedLRP(Packed().eval()).attribute(images, 0), expected)


def test_several_inputs_and_additional_arguments(images: Tensor) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Net(functional.relu)

        def forward(self, left: Tensor, right: Tensor, gain: float = 1.0, shift: Tensor | None = None) -> Tensor:
            value = self.inner(left) * gain + self.inner(right.flip(-1))
            return value if shift is None else value + shift

    lrp = UnifiedLRP(Two().eval(), epsilon=0.0)
    other = images.flip(0).contiguous()
    extra = (2.0, torch.ones(3, dtype=torch.float64))
    left, right = lrp.attribute((images, other), 0, additional_forward_args=extra)
    assert left.shape == right.shape == images.shape
    assert_equals_gradient_x_input(lrp, (images, other), 0, extra)
    assert_conserves(lrp, (images, other), 0, extra)
    assert_model_untouched(lrp, (images, other), 0, extra)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rule", RULES)
def test_half_precision_and_autocast_stay_finite(images: Tensor, dtype: torch.dtype, rule: str) -> None:
    model = Net(nn.Sequential(nn.BatchNorm2d(6), nn.ReLU()).double().eval())
    expected = UnifiedLRP(model, rule=rule).attribute(images, 0)
    half = copy.deepcopy(model).to(dtype)
    found = UnifiedLRP(half, rule=rule).attribute(images.to(dtype), 0)
    assert found.dtype == dtype
    with torch.autocast("cpu", dtype=dtype):
        cast = UnifiedLRP(copy.deepcopy(model).float(), rule=rule).attribute(images.float(), 0)
    for one in (found, cast):
        assert bool(torch.isfinite(one).all())
        similar = functional.cosine_similarity(one.double().flatten(), expected.flatten(), 0)
        assert float(similar) > 0.99


@pytest.mark.parametrize("rule", RULES)
def test_what_a_half_precision_call_cached_is_not_used_in_full_precision(images: Tensor, rule: str) -> None:
    model = Net(nn.Sequential(nn.BatchNorm2d(6), nn.ReLU())).float().eval()
    lrp, x = UnifiedLRP(model, rule=rule), images.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lrp.attribute(x, 0)
    assert torch.equal(lrp.attribute(x, 0), UnifiedLRP(model, rule=rule).attribute(x, 0))


def test_channels_last(images: Tensor) -> None:
    model = Net(nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(3, 1, 1)).double().eval())
    for rule in RULES:
        expected = UnifiedLRP(model, rule=rule).attribute(images, 0)
        last = copy.deepcopy(model).to(memory_format=torch.channels_last)
        found = UnifiedLRP(last, rule=rule).attribute(images.to(memory_format=torch.channels_last), 0)
        assert torch.allclose(found, expected, rtol=1e-10, atol=1e-13)
        assert_conserves(UnifiedLRP(last, rule=rule), images.to(memory_format=torch.channels_last), 0)


def test_two_composites_in_two_threads_at_once(images: Tensor) -> None:
    model = Net(nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(inplace=True)).double().eval())
    alone = {rule: UnifiedLRP(model, rule=rule).attribute(images, 0) for rule in ("epsilon", "zplus")}
    found: dict[str, list[Tensor]] = {rule: [] for rule in alone}
    start = threading.Barrier(2)

    def explain(rule: str) -> None:
        lrp = UnifiedLRP(model, rule=rule)
        start.wait()
        found[rule].extend(lrp.attribute(images, 0) for _ in range(20))

    threads = [threading.Thread(target=explain, args=(rule,)) for rule in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for rule, expected in alone.items():
        assert len(found[rule]) == 20
        assert all(torch.equal(one, expected) for one in found[rule])


@pytest.mark.parametrize("rule", RULES)
def test_nothing_is_kept_alive(images: Tensor, rule: str) -> None:
    seen: list[weakref.ref[Tensor]] = []

    def middle(h: Tensor) -> Tensor:
        out = functional.relu(h) * 1.0
        seen.append(weakref.ref(out))
        return out

    lrp = UnifiedLRP(Net(middle), rule=rule)
    gc.disable()
    try:
        relevance = lrp.attribute(images, 0)
    finally:
        gc.enable()
    assert relevance.grad_fn is None
    assert not relevance.requires_grad
    assert seen[0]() is None, "an activation outlives the call, without a garbage collection"


def live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(item), Tensor) for item in gc.get_objects())


@pytest.mark.parametrize("rule", ["epsilon", "zplus"])
def test_two_hundred_calls_leave_no_tensor(images: Tensor, rule: str) -> None:
    model = Net(nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(inplace=True)).double().eval())
    lrp = UnifiedLRP(model, rule=rule)
    lrp.attribute(images, 0)
    before = live_tensors()
    for _ in range(200):
        lrp.attribute(images, 0)
    assert live_tensors() <= before
