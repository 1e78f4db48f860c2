"""A pass leaves nothing: the model's state, the caller's arguments and the random numbers are as they were, so that every
way to explain explains one output."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lrp_plugin import Composite, LayerUnifiedLRP, NeuronUnifiedLRP, UnifiedLRP, rule
from lrp_plugin.composites import last, linear_maps

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
COUNTING = Composite([(last(), rule("zero")), (linear_maps(), rule("zero"))])  # one forward pass more, to count


class Stateful(nn.Module):
    """A network whose output depends on what earlier passes left."""

    def __init__(self, change: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.map, self.head, self.change = nn.Linear(4, 5), nn.Linear(5, 2), change
        self.register_buffer("mean", torch.zeros(5))
        self.register_buffer("spread", torch.ones(5))
        self.register_buffer("seen", torch.tensor(0))
        self.register_buffer("absent", None)
        self.steps, self.hidden = 0, None
        self.generator = torch.Generator().manual_seed(3)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.change(self, self.map(x))))


def moved(self: Any, h: Tensor) -> Tensor:
    self.mean = self.mean + 1
    return h + self.mean


def moved_in_place(self: Any, h: Tensor) -> Tensor:
    self.mean.add_(1)
    return h + self.mean


def moved_through_data(self: Any, h: Tensor) -> Tensor:
    self.mean.data.add_(1)
    return h + self.mean


def moved_by_a_kernel(self: Any, h: Tensor) -> Tensor:
    with torch.no_grad():  # the running statistics are written inside
        functional.batch_norm(torch.randn(8, 5).double() + 3, self.mean, self.spread, training=True)
    return (h - self.mean) / self.spread


def counted(self: Any, h: Tensor) -> Tensor:
    self.steps += 1
    return h * self.steps


def counted_in_a_buffer(self: Any, h: Tensor) -> Tensor:
    self.seen = self.seen + 1
    return h * self.seen


def remembered(self: Any, h: Tensor) -> Tensor:
    before, self.hidden = self.hidden, h
    return h if before is None else h + before.detach()


def made(self: Any, h: Tensor) -> Tensor:
    self.absent = torch.ones(5).double() if self.absent is None else self.absent * 2
    self.fresh = getattr(self, "fresh", 1) * 2
    return h * self.absent * self.fresh


def taken_away(self: Any, h: Tensor) -> Tensor:
    if "steps" in self.__dict__:
        del self.steps
        return h * 3
    return h


def drawn(self: Any, h: Tensor) -> Tensor:
    return h + torch.randn(5, dtype=torch.float64)


def drawn_of_its_own(self: Any, h: Tensor) -> Tensor:
    return h + torch.randn(5, dtype=torch.float64, generator=self.generator)


def dropped(self: Any, h: Tensor) -> Tensor:
    return functional.dropout(h, 0.5, training=True)


CHANGES = [
    moved, moved_in_place, moved_through_data, moved_by_a_kernel, counted, counted_in_a_buffer, remembered, made, taken_away,
    drawn, drawn_of_its_own, dropped,
]  # fmt: skip


def state(model: Stateful) -> dict[str, Any]:
    """Everything that a pass could have changed, and the random numbers that come next."""
    held = {name: value for name, value in model.__dict__.items() if not isinstance(value, dict)}
    buffers = {name: None if value is None else value.clone() for name, value in model._buffers.items()}
    return {
        **held, **buffers, "ids": {name: id(value) for name, value in model._buffers.items()},
        "drawn": torch.get_rng_state(), "own": model.generator.get_state(),
    }  # fmt: skip


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        same = torch.equal(found[name], value) if isinstance(value, Tensor) else found[name] == value
        assert same, name


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("composite", [None, COUNTING], ids=["plain", "counting"])
def test_every_way_explains_one_output_and_leaves_nothing(change: Any, composite: Any) -> None:
    model = Stateful(change)
    options: dict[str, Any] = {"rule": "zero"} if composite is None else {"composite": composite}
    before = state(model)
    lrp = UnifiedLRP(model, **options)
    found, delta = lrp.attribute(X, 1, return_convergence_delta=True)
    assert_same(state(model), before)
    ledger = lrp.ledger(X, 1)
    assert_same(state(model), before)
    torch.testing.assert_close(ledger.input, found.sum(1))
    torch.testing.assert_close(ledger.output - ledger.input, delta)
    torch.testing.assert_close(lrp.attribute_targets(X, [0, 1])[1], found)
    torch.testing.assert_close(lrp.attribute(X, 1), found)
    at_map = LayerUnifiedLRP(model, model.map, **options).attribute(X, 1, attribute_to_layer_input=True)
    torch.testing.assert_close(at_map, found)
    NeuronUnifiedLRP(model, model.map, **options).attribute(X, 1)
    lrp.plan(X)
    assert_same(state(model), before)
    with torch.no_grad():
        torch.testing.assert_close(ledger.output, model(X)[:, 1])  # what the next call of the model returns


def test_a_pass_that_breaks_off_leaves_nothing_either() -> None:
    def fails(self: Any, h: Tensor) -> Tensor:
        moved(self, h), counted(self, h), drawn(self, h)
        raise RuntimeError("the model's own failure")

    model = Stateful(fails)
    before = state(model)
    with pytest.raises(RuntimeError, match="own failure"):
        UnifiedLRP(model).attribute(X, 1)
    assert_same(state(model), before)


class Cache:
    """Keys of earlier steps, as language models keep them."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors, self.seen = tensors, {"steps": len(tensors)}

    def update(self, h: Tensor) -> Tensor:
        self.tensors.append(h)
        self.seen["steps"] += 1
        return torch.stack(self.tensors).sum(0) * self.seen["steps"]


class Cached(nn.Module):
    """A network that writes to its arguments."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.map, self.head = nn.Linear(4, 5), nn.Linear(5, 2)
        self.double().eval()

    def forward(self, x: Tensor, *further: Any, **named: Any) -> Tensor:
        h = self.map(x)
        for one in (*further, *named.values()):
            if isinstance(one, Cache):
                h = one.update(h)
            elif isinstance(one, dict):
                h = h + one["list"][-1]
                one["list"].append(one["list"][-1] * 2)
            elif isinstance(one, SimpleNamespace):
                h = h + one.tensor
                one.tensor.mul_(2)
            elif isinstance(one, np.ndarray):
                h = h * float(one.sum())
                one += 1
            elif isinstance(one, torch.Generator):
                h = h + torch.randn(5, dtype=torch.float64, generator=one)
            elif isinstance(one, Tensor):
                one.add_(1)
                h = h + one
        return self.head(h)


def arguments() -> dict[str, Any]:
    ones = torch.ones(5, dtype=torch.float64)
    return {
        "cache": Cache([ones.expand(3, 5).clone()]), "empty": Cache([]), "nested": {"list": [ones]},
        "named": SimpleNamespace(tensor=ones.clone()), "array": np.ones(2), "generator": torch.Generator().manual_seed(5),
        "tensor": ones.clone(),
    }  # fmt: skip


@pytest.mark.parametrize("kind", [*arguments(), "all"])
@pytest.mark.parametrize("placed", [False, True])
def test_each_pass_has_arguments_of_its_own(kind: str, placed: bool) -> None:
    model, held = Cached(), arguments()
    given = held if kind == "all" else {kind: held[kind]}
    fresh = arguments() if kind == "all" else {kind: arguments()[kind]}
    call: dict[str, Any] = {"additional_forward_args": tuple(given.values())} if placed else {"forward_kwargs": given}
    found = UnifiedLRP(model, composite=COUNTING).attribute(X, 1, **call)
    ledger = UnifiedLRP(model, "zero").ledger(X, 1, **call)
    torch.testing.assert_close(UnifiedLRP(model, "zero").attribute(X, 1, **call), found)
    torch.testing.assert_close(ledger.input, found.sum(1))
    expected = model(X, **fresh)[:, 1].detach()  # what was given is as it was: the next call says the same
    torch.testing.assert_close(ledger.output, expected)
    torch.testing.assert_close(model(X, **given)[:, 1].detach(), expected)


def test_what_cannot_be_copied_and_modules_are_the_callers_own() -> None:
    model, gate, opened = Cached(), nn.Linear(5, 5).double(), open(__file__)  # noqa: SIM115

    class Held:
        def __init__(self) -> None:
            self.gate, self.file = gate, opened

    seen = []

    def forward(x: Tensor, held: Any, module: nn.Module, flags: Any) -> Tensor:
        seen.append((held.gate is gate, held.file is opened, module is gate, flags))
        return model(x)

    with opened:
        UnifiedLRP(forward).attribute(X, 1, (Held(), gate, {1, 2}))
    assert seen == [(True, True, True, {1, 2})]


@pytest.mark.architectures_extra
def test_a_language_models_cache_is_not_grown() -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra 'peers'")
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=20, vocab_size=11)
    model = transformers.GPT2LMHeadModel(config).double().eval()
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        cache = model(ids[:, :2], use_cache=True).past_key_values
    further = {"past_key_values": cache, "use_cache": True}
    for given in (further, {"past_key_values": transformers.DynamicCache(), "use_cache": True}):
        length = given["past_key_values"].get_seq_length()
        shown = ids[:, 2:] if length else ids
        pick = lambda out: out.logits[:, -1]  # noqa: E731
        found = UnifiedLRP(model, composite=COUNTING, output=pick).attribute(
            {"input_ids": shown}, 5, forward_kwargs=given
        )
        ledger = UnifiedLRP(model, "zero", output=pick).ledger({"input_ids": shown}, 5, forward_kwargs=given)
        assert given["past_key_values"].get_seq_length() == length
        torch.testing.assert_close(ledger.input, found["input_ids"].sum(1))
        with torch.no_grad():
            torch.testing.assert_close(ledger.output, model(ids).logits[:, -1, 5])


def test_an_attribute_that_changes_its_name_alone_is_given_back() -> None:
    class Renaming(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f, self.first = nn.Linear(3, 2), object()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.second = self.__dict__.pop("first")
            return self.f(x)

    model = Renaming().eval()
    held = model.first
    UnifiedLRP(model).attribute(torch.rand(2, 3), 1)
    assert model.first is held and not hasattr(model, "second")
