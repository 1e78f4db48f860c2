"""Two spellings of one computation have one explanation: generated members of each kind of spelling."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from lrp_plugin import Composite, UnifiedLRP, rule
from lrp_plugin.composites import first, linear_maps
from lrp_plugin.testing import assert_same_as
from lrp_plugin.testing.spellings import (
    CACHES,
    CASTS,
    DESTINATIONS,
    EXPORTS,
    WRITES,
    Pair,
    caches,
    casts,
    destinations,
    exports,
    in_place_forms,
    in_place_pairs,
    writes,
)
from lrp_plugin.testing.strategies import explanations, inputs

OPTIONS: list[dict[str, Any]] = [
    *({"rule": name} for name in ("zero", "epsilon", "zplus", "gamma", "alphabeta", "flat", "wsquare")),
    *({"rule": name, "bias": "distribute"} for name in ("epsilon", "zplus", "gamma")),
    {"composite": "epsilon_plus_flat"},
    {"composite": Composite([(first(), rule("gamma")), (linear_maps(), rule("flat"))])},
]
options = st.sampled_from(OPTIONS)


def layers(*sizes: int) -> list[nn.Module]:
    torch.manual_seed(1)
    return [nn.Linear(one, other).double().eval() for one, other in zip(sizes, sizes[1:])]


# ---- in place ------------------------------------------------------------------------------------------------------
def between(pair: Pair, given_in: Any) -> tuple[UnifiedLRP, UnifiedLRP]:
    lower, upper = layers(4, 5, 3)

    def network(form: Any) -> Any:
        def run(v: Tensor) -> Tensor:
            t = lower(v).sigmoid()
            return upper(form(t) + t)  # some forms are constant by rule

        return run

    return UnifiedLRP(network(pair.plain), **given_in), UnifiedLRP(network(pair.spelled), **given_in)


@given(in_place_forms(), options, inputs((4,)))
def test_in_place_is_out_of_place(pair: Pair, how: Any, batch: Tensor) -> None:
    assert_same_as(*between(pair, how), batch, 1, tolerance=1e-7)


@pytest.mark.parametrize("name", in_place_pairs())
@pytest.mark.parametrize("how", [OPTIONS[1], OPTIONS[7], OPTIONS[5]], ids=str)
def test_every_form_in_place_is_out_of_place(name: str, how: Any) -> None:
    batch = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert_same_as(*between(in_place_pairs()[name], how), batch, 1, tolerance=1e-7)


def test_how_many_there_are_of_each_kind() -> None:
    """Else the laws would be ones about nothing."""
    found = {
        "in-place forms": in_place_pairs(), "writes": WRITES, "destinations": DESTINATIONS, "casts": CASTS,
        "exports": EXPORTS, "caches": CACHES,
    }  # fmt: skip
    print({kind: len(members) for kind, members in found.items()})
    assert len(in_place_pairs()) >= 60 and len(WRITES) >= 20


# ---- writes --------------------------------------------------------------------------------------------------------
@given(writes(), destinations(), options, inputs((4,)), st.booleans())
def test_a_write_is_what_it_puts_together(pair: Pair, into: Any, how: Any, batch: Tensor, behind: bool) -> None:
    left, right, upper = layers(4, 5)[0], layers(4, 5)[0], layers(5, 3)[0]
    right.weight.data.mul_(-0.7)

    def network(put: Any) -> Any:
        def run(v: Tensor) -> Tensor:
            other, t = left(v), right(v)
            if not behind:
                other, t = functional.relu(other), functional.relu(t)
            joined = put(into[1](other, t), t)
            return upper(functional.relu(joined) if behind else joined)

        return run

    plain, spelled = (UnifiedLRP(network(put), **how) for put in (pair.plain, pair.spelled))
    assert_same_as(plain, spelled, batch, 1, tolerance=1e-7)


# ---- casts ---------------------------------------------------------------------------------------------------------
@given(casts(), options, st.lists(st.lists(st.integers(0, 4), min_size=2, max_size=2), min_size=1, max_size=3))
def test_a_column_of_whole_numbers_is_the_ids_it_is_cast_to(cast: Any, how: Any, ids: list[list[int]]) -> None:
    torch.manual_seed(0)
    table, head = nn.Embedding(5, 3).double(), nn.Linear(6, 2).double()

    def read(columns: Tensor) -> Tensor:
        return head(functional.relu(table(columns)).flatten(1))

    given_ids = torch.tensor(ids)
    plain, spelled = UnifiedLRP(read, **how), UnifiedLRP(lambda v: read(cast[1](v)), **how)
    assert_same_as(plain, spelled, given_ids, 1, spelled_inputs=given_ids.double(), tolerance=1e-9)


# ---- exports -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_of_each_kind_is_the_module(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)
    )
    model.double().eval()
    batch = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    spelled = EXPORTS[name](model, batch)
    for how in OPTIONS:
        assert_same_as(UnifiedLRP(model, **how), UnifiedLRP(spelled, **how), batch, 1, tolerance=1e-7)


@pytest.mark.slow
@given(explanations(max_steps=4), exports(), options)
def test_an_exported_network_is_the_network(explanation: Any, export: Any, how: Any) -> None:
    network, batch, target = explanation
    try:
        spelled = export[1](network, batch)
    except Exception:  # torch cannot export or trace it: fx no control flow, export no batch of one
        return
    assert_same_as(UnifiedLRP(network, **how), UnifiedLRP(spelled, **how), batch, target, tolerance=1e-7)


# ---- caches --------------------------------------------------------------------------------------------------------
@given(caches(), options, inputs((2, 3)))
def test_an_argument_that_is_written_to_is_each_pass_s_own(kind: Any, how: Any, batch: Tensor) -> None:
    _, make, use = kind
    lower, upper = layers(3, 3)[0], layers(12, 2)[0]
    past = torch.randn(len(batch), 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    cache = make(past)

    def plain(v: Tensor, _: Any) -> Tensor:
        return upper(functional.relu(torch.cat([past, lower(v)], 1)).flatten(1))

    def spelled(v: Tensor, held: Any) -> Tensor:
        return upper(functional.relu(use(held, lower(v))).flatten(1))

    made = UnifiedLRP(spelled, **how)
    for _ in range(2):
        assert_same_as(UnifiedLRP(plain, **how), made, batch, 1, (cache,), tolerance=1e-7)
    fresh = use(make(past), batch)
    assert torch.equal(use(cache, batch), fresh), "the caller's argument was written to"


# ---- what torch returns as it is -----------------------------------------------------------------------------------
ITSELF = {
    "conj": torch.conj, "conj_physical": torch.conj_physical, "resolve_conj": torch.resolve_conj,
    "resolve_neg": torch.resolve_neg, "real": torch.real, "real, the attribute": lambda t: t.real, "positive": lambda t: +t,
    "contiguous": lambda t: t.contiguous(), "double": lambda t: t.double(), "to": lambda t: t.to(torch.float64),
    "type_as": lambda t: t.type_as(t), "cpu": lambda t: t.cpu(), "dropout": lambda t: functional.dropout(t, 0.5, False),
    "expand": lambda t: t.expand(t.shape), "atleast_1d": torch.atleast_1d, "as_tensor": torch.as_tensor,
    "broadcast": lambda t: torch.broadcast_tensors(t, t)[0], "reshape": lambda t: t.reshape(t.shape),
    "flatten": lambda t: t.flatten(1), "squeeze": lambda t: t.squeeze(1), "conj_physical_": lambda t: t.conj_physical_(),
}  # fmt: skip


@pytest.mark.parametrize("name", ITSELF)
@pytest.mark.parametrize("how", [OPTIONS[1], OPTIONS[2], OPTIONS[5], OPTIONS[7]], ids=str)
def test_a_tensor_that_is_returned_as_it_is_keeps_what_is_known_of_it(name: str, how: Any) -> None:
    """The same object is read again behind it: before, a real tensor's conjugate took its port away from it."""
    lower, upper = layers(4, 5, 3)
    batch = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def network(form: Any) -> Any:
        def run(v: Tensor) -> Tensor:
            t = functional.relu(lower(v))
            return upper(form(t) + t)

        return run

    plain, spelled = (UnifiedLRP(network(form), **how) for form in (lambda t: t, ITSELF[name]))
    assert_same_as(plain, spelled, batch, 1, tolerance=1e-9)
