"""What stands around a model, or between a map and its reader, changes no explanation."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.ao.quantization import HistogramObserver, MinMaxObserver, PerChannelMinMaxObserver
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker

from lrp_plugin import Composite, UnifiedLRP, UnsupportedOperationError, registry, rule
from lrp_plugin.algebra.primitives import ForgottenSourceError
from lrp_plugin.composites import convolutions, first, linear_maps, module, operation, path
from lrp_plugin.testing import assert_same_as
from lrp_plugin.testing.networks import GraphNetwork
from lrp_plugin.testing.strategies import explanations, inputs
from lrp_plugin.testing.surroundings import HOOKS, MASKS, Attach, hooks, identities, in_bfloat16, masks, wrappers

OPTIONS: list[dict[str, Any]] = [
    *({"rule": name} for name in ("epsilon", "zplus", "gamma", "alphabeta", "flat", "wsquare")),
    *({"rule": name, "bias": "distribute"} for name in ("epsilon", "zplus", "gamma", "alphabeta")),
    {"composite": "epsilon_plus_flat"},
    {"composite": Composite([(first(), rule("gamma")), (linear_maps(), rule("flat"))])},
]
Explanation = tuple[GraphNetwork, Tensor, Any]


@given(explanations(), hooks(), st.sampled_from(OPTIONS), st.data())
def test_hooks_change_nothing(explanation: Explanation, hook: tuple[str, Attach], options: Any, data: Any) -> None:
    network, batch, target = explanation
    hooked = GraphNetwork(network.graph)
    hooked.load_state_dict(network.state_dict())
    handles = [hook[1](inner) for inner in hooked.modules() if data.draw(st.booleans())]
    assert_same_as(UnifiedLRP(network, **options), UnifiedLRP(hooked, **options), batch, target)
    assert len(handles) == sum(
        len(inner._forward_hooks) + len(inner._backward_hooks) + len(inner._backward_pre_hooks)
        for inner in hooked.modules()
    )


@given(explanations(), wrappers(), st.sampled_from(OPTIONS))
def test_a_callable_is_explained_as_its_module(explanation: Explanation, wrap: Any, options: Any) -> None:
    network, batch, target = explanation
    network.train()  # of either: warned, explained as in evaluation mode, left as it was
    held = {name: value.clone() for name, value in network.state_dict().items()}
    assert_same_as(UnifiedLRP(network, **options), UnifiedLRP(wrap[1](network), **options), batch, target)
    assert all(inner.training for inner in network.modules())
    assert all(torch.equal(value, held[name]) for name, value in network.state_dict().items())


@given(wrappers())
def test_a_path_selects_inside_a_callable(wrap: Any) -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double().eval()
    composite = Composite([(path("0"), rule("flat")), (path("2"), rule("gamma"))])
    x = torch.randn(2, 4, dtype=torch.float64)
    assert_same_as(UnifiedLRP(net, composite=composite), UnifiedLRP(wrap[1](net), composite=composite), x, 1)


def test_dropout_and_statistics_of_a_hidden_module_rest() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 2)).train()
    with pytest.warns(UserWarning, match="training mode"):
        UnifiedLRP(lambda v: {"net": net}["net"](v)).attribute(torch.randn(4, 4), target=0)
    assert int(net[1].num_batches_tracked) == 0 and torch.equal(net[1].running_mean, torch.zeros(3))
    assert all(inner.training for inner in net.modules())


# ---- autocast ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("options", OPTIONS[:-1], ids=str)
def test_the_end_of_an_autocast_region_changes_nothing(options: Any) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)).eval()
    x = torch.randn(2, 1, 4, 4)
    inside = in_bfloat16(net)
    in_parts = lambda v: in_bfloat16(net[1:])(in_bfloat16(net[0])(v))  # noqa: E731
    late = lambda v: in_bfloat16(net[1:])(net[0](v))  # noqa: E731
    wanted = UnifiedLRP(net, **options).attribute(x, target=1)
    whole = UnifiedLRP(inside, **options).attribute(x, target=1)
    assert whole.dtype == torch.float32
    assert torch.equal(whole, UnifiedLRP(in_parts, **options).attribute(x, target=1))
    for found in (whole, UnifiedLRP(late, **options).attribute(x, target=1)):
        # Rounding to 8 bits at each of a few steps of a positive sum and its shares.
        assert (found - wanted).abs().max() <= 16 * torch.finfo(torch.bfloat16).eps * wanted.abs().max()


# ---- those who look on ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rule_name", ["epsilon", "zplus"])
@pytest.mark.parametrize("watch", [lambda: FlopCounterMode(display=False), ModuleTracker], ids=["flops", "modules"])
def test_counters_look_on(watch: Callable[[], Any], rule_name: str) -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double().eval()
    x = torch.randn(2, 4, dtype=torch.float64)
    wanted = UnifiedLRP(net, rule=rule_name).attribute(x, target=0)
    with watch():
        found = UnifiedLRP(net, rule=rule_name).attribute(x, target=0)
    assert (found - wanted).abs().max() <= 1e-12


@pytest.mark.parametrize("observer", [HistogramObserver, MinMaxObserver, PerChannelMinMaxObserver])
@pytest.mark.parametrize("rule_name", ["epsilon", "zplus"])
def test_observers_of_quantization_look_on(observer: type[nn.Module], rule_name: str) -> None:
    torch.manual_seed(0)
    lower, upper = nn.Linear(4, 3).eval(), nn.Linear(3, 2).eval()
    observed = nn.Sequential(lower, observer(), nn.ReLU(), upper, observer()).eval()
    x = torch.randn(2, 4)
    observed(x)
    held = {name: value.clone() for name, value in observed.state_dict().items()}
    wanted = UnifiedLRP(nn.Sequential(lower, nn.ReLU(), upper).eval(), rule=rule_name).attribute(x, target=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = (
            UnifiedLRP(observed, rule=rule_name).attribute(3 * x, target=0),
            UnifiedLRP(observed, rule=rule_name).attribute(x, target=0),
        )
    assert torch.allclose(found[1], wanted, atol=1e-6)
    assert all(torch.equal(value, held[name]) for name, value in observed.state_dict().items())


# ---- relevance that gets lost --------------------------------------------------------------------------------------
def test_relevance_that_is_lost_is_said() -> None:
    """A rule whose value leads nowhere, and one that leads back to the value of a map that waits."""
    mine = registry.copy()
    net = nn.Sequential(nn.Linear(4, 3), nn.Softsign(), nn.Linear(3, 2)).eval()

    @mine.register("severed", "softsign")
    def severed(call: Any) -> Tensor:
        return call.native().detach().requires_grad_()  # type: ignore[no-any-return]

    composite = Composite([(operation("softsign"), rule("severed")), (linear_maps(), rule("zplus"))])
    for explain in ("attribute", "ledger"):
        with pytest.raises(UnsupportedOperationError, match="was lost on its way"):
            getattr(UnifiedLRP(net, composite=composite, registry=mine), explain)(torch.randn(2, 4), target=0)


def test_a_pass_that_lost_relevance_is_made_again_with_values_kept() -> None:
    mine, kept = registry.copy(), []
    net = nn.Sequential(nn.Linear(4, 3), nn.Softsign(), nn.Linear(3, 2)).eval()

    @mine.register("forgetful", "softsign")
    def forgetful(call: Any) -> Tensor:
        kept.append(call.row)
        value: Tensor = call.native()
        if len(kept) == 1:
            value.register_hook(_forget)
        return value

    def _forget(_: Tensor) -> None:
        raise ForgottenSourceError

    composite = Composite([(operation("softsign"), rule("forgetful")), (linear_maps(), rule("zplus"))])
    x, lrp = torch.randn(2, 4), UnifiedLRP(net, composite=composite, registry=mine)
    found = lrp.attribute(x, target=0)
    assert len(kept) == 2 and torch.equal(found, lrp.attribute(x, target=0))


# ---- selectors that select nothing ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("selector", "spec", "said"),
    [
        (path("layre1*"), "gamma", "near are 'layer1'"),
        (operation("relu"), "zplus", "no operation there has rule 'zplus'; legal are relu: "),
        (path("layer1*") & operation("relu"), "zplus", "no operation there has rule"),
        (module(nn.Conv3d), "zplus", "module Conv3d matches no operation"),
    ],
)
def test_a_pair_of_no_use_is_said_once(selector: Any, spec: str, said: str) -> None:
    net = nn.Sequential()
    net.add_module("layer1", nn.Sequential(nn.Linear(4, 3), nn.ReLU()))
    net.add_module("head", nn.Linear(3, 2))
    x, composite = torch.randn(1, 4), Composite([(selector, rule(spec)), (convolutions(), rule("zplus"))])
    lrp = UnifiedLRP(net.eval(), composite=composite)
    with pytest.warns(UserWarning, match=said) as told:
        lrp.attribute(x, target=0)
        lrp.attribute(x, target=0)
    assert sum(bool(re.search(said, str(one.message))) for one in told) == 1
    with pytest.raises(ValueError, match=said):
        UnifiedLRP(net, composite=composite, strict=True).attribute(x, target=0)


def test_a_rule_that_returns_its_input_is_refused_or_harmless() -> None:
    """What a rule registers must not replace what is known of its argument."""
    mine = registry.copy()
    mine.register("kept", "softsign")(lambda call: call["input"] * 1.0)
    net = nn.Sequential(nn.Linear(4, 3), nn.Softsign(), nn.Linear(3, 2)).double().eval()
    composite = Composite([(operation("softsign"), rule("kept"))])
    assert UnifiedLRP(net, composite=composite, registry=mine).attribute(torch.randn(1, 4).double(), target=0).any()


# ---- ports and writes ----------------------------------------------------------------------------------------------
@given(identities(), st.sampled_from(OPTIONS), inputs((5,)), st.booleans())
def test_entries_put_together_again_are_the_same_signal(put: Any, options: Any, batch: Tensor, behind: bool) -> None:
    torch.manual_seed(1)
    lower, upper = nn.Linear(5, 4).double().eval(), nn.Linear(4, 3).double().eval()
    plain = lambda v: upper(functional.relu(lower(v)))  # noqa: E731
    spelled = lambda v: upper(put[1](functional.relu(lower(v))) if behind else functional.relu(put[1](lower(v))))  # noqa: E731
    assert_same_as(UnifiedLRP(plain, **options), UnifiedLRP(spelled, **options), batch, 1, tolerance=1e-7)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_whole_numbers_cast_inside_keep_their_port(options: Any) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).double().eval()
    black = torch.randint(1, 255, (2, 1, 8, 8), dtype=torch.uint8)
    black[:, :, :4] = 0
    as_float = UnifiedLRP(lambda v: net(v / 255), **options)
    cast = UnifiedLRP(lambda v: net(v.double() / 255), **options)
    assert_same_as(as_float, cast, black.double(), 1, spelled_inputs=black)


# ---- infinite entries ----------------------------------------------------------------------------------------------
CURVES: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "softplus": functional.softplus,
    "elu": functional.elu, "clamp": lambda t: t.clamp(-1, 1), "softmax": lambda t: t.softmax(-1),
    "log_softmax": lambda t: t.log_softmax(-1).exp(), "hardsigmoid": functional.hardsigmoid, "expm1": torch.expm1,
    "logsumexp": lambda t: t.logsumexp(-1, keepdim=True).expand_as(t), "relu": functional.relu, "erf": torch.erf,
    "by hand": lambda t: t.exp() / t.exp().sum(-1, keepdim=True), "exp2": torch.exp2, "selu": functional.selu,
    "maximum": lambda t: torch.maximum(t, torch.zeros_like(t)), "gated": lambda t: t.exp() * t.sigmoid(),
    "logaddexp": lambda t: torch.logaddexp(t, torch.zeros_like(t)), "amax": lambda t: t.amax(-1, keepdim=True).expand_as(t),
}  # fmt: skip


@given(st.sampled_from(sorted(CURVES)), masks(), inputs((4,)), st.sampled_from(["absorb", "distribute"]))
def test_masked_entries_absorb(curve: str, mask: Any, batch: Tensor, bias: str) -> None:
    torch.manual_seed(0)
    lower, mix = nn.Linear(4, 3).double().eval(), torch.randn(3, 2, dtype=torch.float64)
    closed = torch.tensor([False, True, False])
    masked = UnifiedLRP(lambda v: CURVES[curve](mask[1](lower(v), closed.expand(len(v), 3))) @ mix, bias=bias)
    relevance, account = masked.attribute(batch, target=1), masked.ledger(batch, target=1)
    assert relevance.isfinite().all()
    assert account.gap.abs().max() <= 1e-12 * max(1, float(relevance.abs().sum()))
    assert all(row.gap.abs().max() <= 1e-12 * max(1, float(relevance.abs().sum())) for row in account.rows)
    assert "NaN" not in json.dumps(account.to_dict(), allow_nan=False) and "null" not in json.dumps(account.to_dict())


def test_every_way_to_mask_gives_one_map() -> None:
    torch.manual_seed(0)
    lower, mix = nn.Linear(4, 3).double().eval(), torch.randn(3, 2, dtype=torch.float64)
    closed, x = torch.tensor([False, True, False]), torch.randn(2, 4, dtype=torch.float64)
    made = [UnifiedLRP(lambda v, mask=mask: mask(lower(v), closed).exp() @ mix) for mask in MASKS.values()]
    for other in made[1:]:
        assert_same_as(made[0], other, x, 1)


# ---- each kind once, on a network in which every way is taken -------------------------------------------------------
def _folding() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )
    with torch.no_grad():
        net[1].running_mean.normal_()
        net[1].running_var.uniform_(0.5, 2)
    return net.double().eval()


@pytest.mark.parametrize("kind", HOOKS)
@pytest.mark.parametrize("options", [OPTIONS[0], OPTIONS[1], OPTIONS[8]], ids=str)  # epsilon, zplus, gamma distribute
def test_a_hook_of_each_kind_on_every_module_changes_nothing(kind: str, options: Any) -> None:
    """Reading the value of a map before its BatchNorm or ReLU neither unfolds it nor gives the ReLU another formula."""
    plain, hooked, x = _folding(), _folding(), torch.randn(2, 1, 8, 8, dtype=torch.float64)
    for inner in hooked:
        HOOKS[kind](inner)
    assert_same_as(UnifiedLRP(plain, **options), UnifiedLRP(hooked, **options), x, 1)


CONSTANT_FORMS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Any]]] = {
    "reciprocal": (torch.reciprocal, lambda d: d.reciprocal_()),
    "rsqrt": (torch.rsqrt, lambda d: d.rsqrt_()),
    "sign": (torch.sign, lambda d: d.sign_()),
    "pow": (lambda d: d**-1, lambda d: d.pow_(-1)),
    "gt": (lambda d: d.gt(1).double(), lambda d: d.gt_(1)),
    "remainder": (lambda d: d.remainder(0.7), lambda d: d.remainder_(0.7)),
    "detach": (torch.detach, lambda d: d.detach_()),
    "fill": (lambda d: torch.full_like(d, 2.0), lambda d: d.fill_(2.0)),
    "item": (torch.ones_like, lambda d: d.__setitem__(slice(None), 1)),
    "copy": (torch.ones_like, lambda d: d.copy_(torch.ones_like(d))),
    "parts": (torch.ones_like, lambda d: (d[:1].fill_(1.0), d[1:].fill_(1.0))),
}


@pytest.mark.parametrize("rule_name", ["epsilon", "zplus"])
@pytest.mark.parametrize("form", CONSTANT_FORMS)
def test_what_is_made_constant_in_place_takes_no_share(form: str, rule_name: str) -> None:
    """A dead signal would take half of its product with a live one."""
    out_of_place, in_place = CONSTANT_FORMS[form]
    index, w = torch.tensor([0, 1, 0]), torch.tensor([[0.7, 1.2, 0.9]], dtype=torch.float64)

    def summed(given: Tensor) -> Tensor:
        return torch.zeros(2, dtype=given.dtype).index_add(0, index, given[0])

    def written(given: Tensor) -> Tensor:
        d = summed(given)
        in_place(d)
        return (d * given[0, :2]).sum()[None]

    plain = UnifiedLRP(lambda given: (out_of_place(summed(given)) * given[0, :2]).sum()[None], rule=rule_name)
    assert_same_as(plain, UnifiedLRP(written, rule=rule_name), w)
