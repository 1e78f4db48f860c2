"""What a call gives where it can be written down: each of these was asked for by a planted fault."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lrp_plugin import LayerUnifiedLRP, NeuronUnifiedLRP, UnifiedLRP

X = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])


class Scaled(nn.Module):
    """Two outputs, ``x`` times a factor of each example's own; it keeps a diary in a list it is handed."""

    def forward(self, x: Tensor, factor: Tensor | None = None, diary: list[int] | None = None) -> Tensor:
        if diary is not None:
            diary.append(len(x))
            x = x * len(diary)
        return x if factor is None else x * factor


def lrp(model: Any = None) -> UnifiedLRP:
    return UnifiedLRP((Scaled() if model is None else model).eval(), "zero")


@pytest.mark.parametrize("size", [None, 1, 2, 3])
def test_further_arguments_and_targets_are_divided_with_their_examples(size: int | None) -> None:
    factor = torch.tensor([[1.0], [10.0], [100.0]])
    found, delta = lrp().attribute(X, [0, 1, 0], (factor,), True, internal_batch_size=size)
    assert found.tolist() == [[1, 0], [0, 40], [500, 0]] and delta.tolist() == [0, 0, 0]


def test_each_pass_writes_in_a_diary_of_its_own() -> None:
    diary: list[int] = []
    explainer = lrp()
    for _ in range(2):
        assert explainer.attribute(X, 0, forward_kwargs={"diary": diary}).tolist() == [[1, 0], [3, 0], [5, 0]]
    assert not diary


def test_each_target_has_its_own_map() -> None:
    assert lrp().attribute_targets(X, [1, [0, 1, 0]]).tolist() == [
        [[0, 2], [0, 4], [0, 6]],
        [[1, 0], [0, 4], [5, 0]],
    ]


def test_the_delta_is_the_output_less_what_arrived() -> None:
    model = nn.Linear(2, 1)
    model.weight.data, model.bias.data = torch.tensor([[1.0, 1.0]]), torch.tensor([7.0])
    assert lrp(model).attribute(X, 0, return_convergence_delta=True)[1].tolist() == [7, 7, 7]


class Twice(nn.Module):
    """One layer that runs twice: 2 (2 x), and a layer that the output does not need."""

    def __init__(self) -> None:
        super().__init__()
        self.twofold, self.unused, self.add = nn.Linear(2, 2, bias=False), nn.Linear(2, 2), nn.Linear(2, 2, bias=False)
        self.twofold.weight.data, self.add.weight.data = 2 * torch.eye(2), torch.tensor([[1.0, 1], [0, 1]])

    def forward(self, x: Tensor) -> Tensor:
        self.unused(x)
        return self.add(self.twofold(self.twofold(x) + 1))


def test_the_last_run_of_a_layer_counts_at_its_input_and_at_its_output() -> None:
    model = Twice().eval()
    layer = LayerUnifiedLRP(model, model.twofold, rule="zero")
    for inside in (False, True):
        found = layer.attribute(X[:1], 0, attribute_to_layer_input=inside)
        torch.testing.assert_close(found, torch.tensor([[6.0, 10.0]]))  # 2 (2 x + 1)
    one = LayerUnifiedLRP(model, model.add, rule="zero")
    assert one.attribute(X[:1], 0).tolist() == [[16, 0]]
    torch.testing.assert_close(one.attribute(X[:1], 0, attribute_to_layer_input=True), torch.tensor([[6.0, 10.0]]))
    with pytest.raises(ValueError, match="does not depend on layer Linear"):
        LayerUnifiedLRP(model, model.unused, rule="zero").attribute(X, 0)


def test_a_unit_of_several_numbers_is_their_sum() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Flatten())
    model[0].weight.data = torch.tensor([[1.0, 0], [0, 10]])
    unit = NeuronUnifiedLRP(model.eval(), model[0], rule="zero")
    assert unit.attribute(X[:1], (slice(None),)).tolist() == [[1, 20]]


def test_an_inner_mask_is_counted_where_it_is_true() -> None:
    model = nn.Unflatten(1, (1, 2))
    assert lrp(model).attribute(X[:1], (0, torch.tensor([False, True]))).tolist() == [[0, 2]]
    assert lrp(model).attribute(X[:1], (0, -2)).tolist() == [[1, 0]]


def test_five_examples_by_twos_are_five() -> None:
    many = torch.arange(10.0).reshape(5, 2)
    assert torch.equal(lrp().attribute(many, 1, internal_batch_size=2), many * torch.tensor([0.0, 1]))


def test_an_output_s_place_counts_from_the_end() -> None:
    two = UnifiedLRP(lambda x: (x, 3 * x), "zero", output=-1)
    assert two.attribute(X[:1], 0).tolist() == [[3, 0]]


def test_a_unit_that_a_function_gives_in_several_numbers_is_their_sum() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Flatten())
    model[0].weight.data = torch.tensor([[1.0, 0], [0, 10]])
    unit = NeuronUnifiedLRP(model.eval(), model[0], rule="zero")
    assert unit.attribute(X[:1], lambda value: value).tolist() == [[1, 20]]


def test_a_layer_whose_relevance_comes_by_a_port_has_it() -> None:
    """``flat`` above the layer shares evenly over its two units, what they say counts not."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)).eval()
    model[0].weight.data, model[1].weight.data = torch.eye(2), torch.tensor([[1.0, 3]])
    found = LayerUnifiedLRP(model, model[0], rule="flat").attribute(X[:1])
    torch.testing.assert_close(found, torch.tensor([[3.5, 3.5]]))


def test_a_compiled_graph_that_is_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(graph: Any, **_: Any) -> Any:
        return lambda *given: [2 * one for one in graph(*given)]

    monkeypatch.setattr(torch, "compile", wrong)
    explainer = UnifiedLRP(Scaled().eval(), "zero", compile=True)
    with pytest.warns(UserWarning, match="the compiled graph differs from the eager pass"):
        explainer.attribute(X, 0)
    assert explainer.attribute(X, 0).tolist() == [[1, 0], [3, 0], [5, 0]]
