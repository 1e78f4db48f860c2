"""Faults that were planted in the code and that no other test saw: each test here was seen to fail on its fault."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lrp_plugin import Composite, NeuronUnifiedLRP, UnifiedLRP, rule
from lrp_plugin.algebra.formulas import relevance_of
from lrp_plugin.composites import operation
from lrp_plugin.fast.elementwise import damped_behind_relu
from lrp_plugin.propagation.quiet import evaluating

ROW = torch.float64


def test_damping_behind_a_relu_is_computed_wide_in_half_precision() -> None:
    """In float16 m y is 6e4 x 4: infinite."""
    m, y = torch.full((3,), 6e4, dtype=torch.float16), torch.full((3,), 4.0, dtype=torch.float16)
    assert torch.equal(damped_behind_relu(m, y, 4.0), m / 2)


def test_a_causal_mask_is_aligned_top_left_where_keys_outnumber_queries() -> None:
    """Torch's ``is_causal`` is ``tril`` of ones from the first query and the first key on."""
    torch.manual_seed(0)
    project, memory = nn.Linear(3, 3).double().eval(), torch.randn(1, 5, 3, dtype=ROW)
    mask = torch.ones(2, 5, dtype=torch.bool).tril()
    x = torch.randn(1, 2, 3, dtype=ROW)

    def attention(v: Tensor, **options: object) -> Tensor:
        keys = torch.cat([v, project(memory)], 1)[:, :5]
        return functional.scaled_dot_product_attention(project(v), keys, keys, **options).sum((1, 2))[:, None]  # type: ignore[arg-type]

    for composite in ("attnlrp", "cp_lrp"):
        causal = UnifiedLRP(lambda v: attention(v, is_causal=True), composite=composite)
        masked = UnifiedLRP(lambda v: attention(v, attn_mask=mask), composite=composite)
        assert torch.allclose(causal.attribute(x, target=0), masked.attribute(x, target=0), atol=1e-12)
        assert causal.ledger(x, target=0).gap.abs().max() <= 1e-9


@pytest.mark.parametrize("padding", [-1, 4])
def test_padding_counts_from_the_end(padding: int) -> None:
    torch.manual_seed(0)
    table, head = torch.randn(5, 3, dtype=ROW), torch.randn(3, 2, dtype=ROW)
    ids = torch.tensor([[1, 4, 2]])
    lrp = UnifiedLRP(lambda given: functional.embedding(given, table, padding_idx=padding).sum(1) @ head)
    relevance = lrp.attribute(ids, target=1)[0]
    assert relevance[1] == 0 and relevance[0] != 0 and relevance[2] != 0
    assert lrp.ledger(ids, target=1).gap.abs().max() <= 1e-12


def test_a_damped_addition_books_its_constant_damped() -> None:
    """``R_c = c m |z| / (|z| + epsilon)`` of an added constant c; the stabilizer has the rest of z."""
    x, c, epsilon = torch.tensor([[0.5]], dtype=ROW), 1.0, 0.5
    composite = Composite([(operation("add"), rule("epsilon", epsilon=epsilon))])
    account = UnifiedLRP(lambda v: v + torch.full((1, 1), c, dtype=ROW), composite=composite).ledger(x, target=0)
    z = float(x) + c
    factor = z / (z + epsilon)
    assert abs(float(account.constant) - c * factor) <= 1e-12
    assert abs(float(account.stabilizer) - z * (1 - factor)) <= 1e-12
    assert abs(float(account.input) - float(x) * factor) <= 1e-12


@pytest.mark.filterwarnings("ignore:.*training mode")
def test_the_last_of_two_holders_gives_the_flags_back() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    net.train()
    first, second = evaluating(net), evaluating(net)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not any(inner.training for inner in net.modules())  # the other still explains
    second.__exit__(None, None, None)
    assert all(inner.training for inner in net.modules())


@pytest.mark.filterwarnings("ignore:.*training mode")
def test_a_part_of_a_model_is_held_with_the_whole() -> None:
    net, inside, done = nn.Sequential(nn.Dropout(), nn.Dropout()).train(), threading.Event(), threading.Event()

    def hold_a_part() -> None:
        with evaluating(net[0]):
            inside.set()
            done.wait(10)

    thread = threading.Thread(target=hold_a_part)
    with evaluating(net):
        thread.start()
        inside.wait(10)
    assert not net[0].training and net[1].training
    done.set()
    thread.join()
    assert net[0].training


def test_a_tables_columns_are_under_their_names() -> None:
    lin = nn.Linear(2, 2).double().eval()
    x = torch.tensor([[1.0, 2.0]], dtype=ROW)
    account = UnifiedLRP(lin, epsilon=0.0).ledger(x, target=0)
    head, *_, total, _ = account.table().splitlines()[1:]
    columns = ("out", "in", "bias", "constant", "stabilizer", "no_receiver", "other")
    assert tuple(head.split()[-7:]) == columns
    shown = dict(zip(columns, map(float, total.split()[-7:])))
    bias, output = float(lin.bias[0]), float(lin(x)[0, 0])
    assert shown == pytest.approx(
        {**dict.fromkeys(columns, 0.0), "out": output, "in": output - bias, "bias": bias}, abs=1e-3
    )


def test_a_unit_of_a_feature_map_is_named_by_all_its_places() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()).double().eval()
    x = torch.randn(2, 1, 5, 5, dtype=ROW)
    neuron = NeuronUnifiedLRP(net, net[0], rule="zero")
    relevance = neuron.attribute(x, (1, 0, 2))
    bias = net[0].bias[1].detach()
    assert torch.allclose(relevance.sum((1, 2, 3)), net[0](x)[:, 1, 0, 2] - bias)
    assert (relevance[:, :, 3:] == 0).all() and (relevance[:, :, :, :2] == 0).all()


def test_an_infinite_entry_without_a_multiplier_has_no_relevance() -> None:
    """A mask's -inf times a multiplier of 0 is 0, not NaN; with one it is what it is."""
    found = relevance_of(torch.tensor([-torch.inf, torch.inf, 3.0]), torch.tensor([0.0, 0.0, 2.0]))
    assert torch.equal(found, torch.tensor([0.0, 0.0, 6.0]))


def test_an_added_constant_weighs_as_addmm_says() -> None:
    """``addmm(b, x, W, beta=2)`` is a linear map whose bias is 2 b, under a rule that looks at its sign too."""
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 4, dtype=ROW), torch.randn(4, 3, dtype=ROW), torch.randn(3, dtype=ROW)
    found = UnifiedLRP(lambda x: torch.addmm(bias, x, weight, beta=2), rule="zplus").attribute(x, 1)
    plain = UnifiedLRP(lambda x: functional.linear(x, weight.T, 2 * bias), rule="zplus").attribute(x, 1)
    torch.testing.assert_close(found, plain, rtol=1e-9, atol=1e-12)
