"""Rows are not always examples: graphs, two modalities, one number of all; what is explained has a ledger and a delta."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lrp_plugin import LayerUnifiedLRP, NeuronUnifiedLRP, UnifiedLRP


class Graphs(nn.Module):
    """Messages over edges, a sum over each graph's nodes; scores (graphs, 3)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.node, self.edge, self.head = nn.Linear(4, 5), nn.Linear(2, 5), nn.Linear(5, 3)
        self.double().eval()

    def forward(self, nodes: Tensor, edges: Tensor, ends: Tensor, graph: Tensor) -> Tensor:
        sent = torch.relu(self.node(nodes)[ends[0]] + self.edge(edges))
        held = torch.zeros(len(nodes), 5, dtype=nodes.dtype).index_add(0, ends[1], sent)
        pooled = torch.zeros(int(graph.max()) + 1, 5, dtype=nodes.dtype).index_add(0, graph, torch.relu(held))
        return self.head(pooled)


class Pairs(nn.Module):
    """Images and captions; similarities (images, captions), as CLIP's."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.see, self.read = nn.Linear(6, 4, bias=False), nn.EmbeddingBag(9, 4, mode="sum")
        self.double().eval()

    def forward(self, images: Tensor, captions: Tensor) -> Tensor:
        return self.see(images) @ self.read(captions).T


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


NODES, EDGES = drawn(6, 4), drawn(10, 2, seed=2)
ENDS = torch.tensor([[0, 1, 2, 3, 4, 5, 0, 2, 4, 1], [1, 2, 0, 4, 5, 3, 2, 1, 3, 0]])
GRAPH = torch.tensor([0, 0, 0, 1, 1, 1])
FURTHER = (ENDS, GRAPH)
RULES = [
    {"rule": "zero"},
    {"rule": "epsilon"},
    {"rule": "zplus"},
    {"rule": "flat"},
    {"rule": "gamma", "bias": "distribute"},
]


def check(model: nn.Module, inputs: Any, target: Any, options: dict[str, Any], further: Any, output: Tensor) -> None:
    """Ledger, delta and relevance of one explanation agree with one another and with the model's output."""
    lrp = UnifiedLRP(model, **options)
    found, delta = lrp.attribute(inputs, target, further, return_convergence_delta=True)
    plain = lrp.attribute(inputs, target, further)
    for mine, other, explained in zip(found, plain, inputs, strict=True):
        assert mine.shape == explained.shape
        torch.testing.assert_close(mine, other)
    ledger = lrp.ledger(inputs, target, further)
    torch.testing.assert_close(ledger.output, output)
    assert ledger.gap.abs().max() < 1e-9
    torch.testing.assert_close(delta, ledger.output - ledger.input)
    torch.testing.assert_close(sum(one.sum() for one in found), ledger.input.sum())


@pytest.mark.parametrize("options", RULES, ids=str)
@pytest.mark.parametrize("target", [1, [2, 0], -1])
def test_graphs_of_nodes_and_edges(options: dict[str, Any], target: Any) -> None:
    model = Graphs()
    places = target if isinstance(target, list) else [target, target]
    output = model(NODES, EDGES, *FURTHER)[[0, 1], places].detach()
    check(model, (NODES, EDGES), target, options, FURTHER, output)
    check(lambda n, *rest: model(n, EDGES, *rest), (NODES,), target, options, FURTHER, output)


def test_a_graphs_relevance_is_that_of_the_graph_alone() -> None:
    model = Graphs()
    both = UnifiedLRP(model).attribute((NODES, EDGES), [1, 2], FURTHER)
    mine = torch.tensor([0, 1, 2, 6, 7, 9])  # the first graph's edges
    alone = UnifiedLRP(model).attribute((NODES[:3], EDGES[mine]), 1, (ENDS[:, mine], GRAPH[:3]))
    torch.testing.assert_close(both[0][:3], alone[0])
    torch.testing.assert_close(both[1][mine], alone[1])
    targets = UnifiedLRP(model).attribute_targets((NODES, EDGES), [[1, 2], 0], FURTHER)
    torch.testing.assert_close(targets[0][0], both[0])
    layer = LayerUnifiedLRP(model, model.node).attribute((NODES, EDGES), [1, 2], FURTHER)
    assert layer.shape == (6, 5) and layer.abs().sum() > 0
    with pytest.raises(ValueError, match="return_convergence_delta.*not of 2 examples"):
        LayerUnifiedLRP(model, model.node).attribute((NODES, EDGES), 1, FURTHER, True)
    unit = NeuronUnifiedLRP(model, model.node, rule="zero").attribute((NODES, EDGES), 2, FURTHER)
    assert unit[0].abs().sum() > 0 and not unit[1].any()


def test_graphs_are_not_divided() -> None:
    with pytest.raises(ValueError, match="internal_batch_size.*6 and 10 rows"):
        UnifiedLRP(Graphs()).attribute((NODES, EDGES), 1, FURTHER, internal_batch_size=2)

    def pooled(nodes: Tensor) -> Tensor:
        return nodes.view(-1, 2, 4).sum(1) * 2  # two nodes each

    with pytest.raises(ValueError, match="rows are not examples"):
        UnifiedLRP(pooled).attribute(NODES, 1, internal_batch_size=2)


@pytest.mark.parametrize("options", [{"rule": "zero"}, {"rule": "epsilon"}], ids=str)
def test_images_and_captions(options: dict[str, Any]) -> None:
    model, images, captions = Pairs(), drawn(2, 6), torch.tensor([[1, 2], [3, 4], [5, 6]])
    check(model, (images, captions), [0, 2], options, None, model(images, captions)[[0, 1], [0, 2]].detach())
    found = UnifiedLRP(model, "zero").attribute((images, captions), [0, 2])
    assert not found[1][1].any() and found[1][0].abs().min() > 0  # the second caption is no target


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
@pytest.mark.parametrize("options", RULES, ids=str)
def test_one_number_of_all_rows(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    net = Graphs().node
    check(
        lambda x: torch.relu(net(x)).sum().reshape(shape), (NODES,), None, options, None, net(NODES).relu().sum()[None]
    )


def test_one_row_shared_by_many() -> None:
    model = nn.Bilinear(4, 4, 3).double().eval()

    def forward(x: Tensor, shared: Tensor) -> Tensor:
        return model(x, shared.expand_as(x))

    output = forward(NODES, NODES[:1])[:, 1].detach()
    check(forward, (NODES, NODES[:1].clone()), 1, {"rule": "zero"}, None, output)


@pytest.mark.filterwarnings("error:compile=")
def test_compiled_passes_take_rows_that_are_no_examples() -> None:
    pytest.importorskip("torch._inductor")
    model = Pairs()
    images, maps = drawn(2, 6), drawn(3, 4)

    def forward(x: Tensor, y: Tensor) -> Tensor:
        return torch.relu(model.see(x)) @ y.T

    lrp = UnifiedLRP(forward, compile=True)
    for _ in range(2):
        found, delta = lrp.attribute((images, maps), [0, 2], return_convergence_delta=True)
        wanted, expected = UnifiedLRP(forward).attribute((images, maps), [0, 2], return_convergence_delta=True)
        torch.testing.assert_close((*found, delta), (*wanted, expected))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 5), st.integers(1, 7), st.data())
def test_any_rows_to_any_outputs(rows: int, outputs: int, data: st.DataObject) -> None:
    """Each output mixes rows: ledger and delta belong to the outputs.

    Excluded: as many rows as outputs; they count as the outputs' examples then, for the delta.
    """
    assume(rows != outputs)
    mixing = drawn(outputs, rows, seed=rows)
    width = data.draw(st.integers(1, 3))
    each_own = st.lists(st.integers(0, width - 1), min_size=outputs, max_size=outputs)
    target = data.draw(st.one_of(st.integers(-width, width - 1), each_own))
    weight = drawn(width, 4, seed=outputs)

    def forward(x: Tensor) -> Tensor:
        return mixing @ torch.relu(x @ weight.T)

    x = drawn(rows, 4, seed=7)
    each = target if isinstance(target, list) else [target] * outputs
    check(forward, (x,), target, {"rule": "zero"}, None, forward(x)[range(outputs), each])
