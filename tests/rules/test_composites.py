"""Composites choose the rule that their selectors say; every ready one runs, and bias="distribute" reaches the pixels."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from lrp_plugin import Composite, UnifiedLRP, composites, rule
from lrp_plugin.composites import (
    Selector,
    convolutions,
    dense,
    depth,
    first,
    last,
    linear_maps,
    module,
    nth,
    operation,
    path,
    predicate,
)  # fmt: skip


def network() -> nn.Module:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 4))
    return nn.Sequential(body, nn.ReLU(), nn.Linear(4, 3)).double().eval()


X = torch.randn(2, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def chosen(selector: Selector) -> list[str]:
    """The paths of the operations that the selector's rule was planned for."""
    plan = UnifiedLRP(network(), composite=Composite([(selector, rule("zero"))])).plan(X)
    return [site.path for site, choice in plan.entries if choice.selector == str(selector)]


@pytest.mark.parametrize(
    ("selector", "paths"),
    [
        (path("0.*"), ["0.0", "0.2", "0.5"]), (path("2"), ["2"]), (module(nn.Linear), ["0.5", "2"]),
        (operation("conv2d"), ["0.0", "0.2"]), (first(), ["0.0"]), (last(), ["2"]), (nth(1), ["0.2"]),
        (nth(-2), ["0.5"]), (depth(0, 0.5), ["0.0", "0.2"]), (depth(0.5, 1), ["0.5", "2"]),
        (convolutions(), ["0.0", "0.2"]), (dense(), ["0.5", "2"]), (dense() & path("2"), ["2"]),
        (first() | last(), ["0.0", "2"]), (linear_maps() & ~first(), ["0.2", "0.5", "2"]),
        (predicate(lambda site: site.path.endswith(".5"), "fifth"), ["0.5"]),
    ],
    ids=str,
)  # fmt: skip
def test_selector_means_these_operations(selector: Selector, paths: list[str]) -> None:
    assert chosen(selector) == paths


def test_a_product_of_two_signals_is_no_linear_map() -> None:
    """Attention's scores are none: the last linear map is the one before them."""

    class Scores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.bmm(self.query(x), self.key(x).mT).flatten(1)

    composite = Composite([(last(), rule("zero"))])
    plan = UnifiedLRP(Scores().eval(), composite=composite).plan(torch.randn(1, 2, 4))
    assert [site.path for site, choice in plan.entries if choice.selector == str(last())] == ["key"]
    assert [site.path for site, _ in plan.entries if site.linear] == ["query", "key"]


def test_the_first_match_wins_and_with_rule_comes_first() -> None:
    base = Composite([(linear_maps(), rule("epsilon"))])
    built = base.with_rule(first(), rule("flat"))
    assert [str(spec) for _, spec in built.pairs] == ["flat", "epsilon"] and len(base.pairs) == 1
    assert built == Composite([(first(), "flat"), (linear_maps(), "epsilon")]) and built != base
    assert "first" not in str(base) and "linear map 0" in str(built) and "-> flat" in str(built)


def test_unknown_rules_and_parameters_are_refused_with_the_legal_ones() -> None:
    with pytest.raises(ValueError, match="unknown rule 'epsilo'; legal are .*epsilon"):
        UnifiedLRP(network(), composite=Composite([(first(), "epsilo")]))
    with pytest.raises(ValueError, match="takes no parameter 'gama'; legal are .*gamma"):
        UnifiedLRP(network(), composite=Composite([(first(), rule("gamma", gama=1))]))
    with pytest.raises(ValueError, match="unknown preset"):
        composites.lrp_cmp("alpha7")


@pytest.mark.parametrize("name", sorted(composites.ready.READY))
def test_every_ready_composite_runs_by_name_and_closes(name: str) -> None:
    ledger = UnifiedLRP(network(), composite=name).ledger(X, target=1)
    assert ledger.gap.abs().max() < 1e-12 and torch.isfinite(ledger.input).all()


@pytest.mark.parametrize("name", ["guided_backprop", "deconvnet"])
def test_comparison_composites_meet_their_twins(name: str) -> None:
    """The backward pass by hand, through two dense layers."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)).double().eval()
    x = torch.randn(2, 5, dtype=torch.float64)
    z, arriving = model[0](x), model[2].weight[1].expand(2, 6).clamp(min=0)
    sent = (arriving * (z > 0) if name == "guided_backprop" else arriving) @ model[0].weight
    got = UnifiedLRP(model, composite=name).attribute(x, target=1)
    torch.testing.assert_close(got, (x * sent).detach())


def test_two_composites_on_one_model_do_not_disturb_each_other() -> None:
    model = network()
    explainers = [UnifiedLRP(model, composite=name) for name in ("epsilon_plus", "deep_taylor")]
    before = [lrp.attribute(X, target=0) for lrp in explainers]
    again = [lrp.attribute(X, target=0) for lrp in reversed(explainers)][::-1]
    assert all(torch.equal(a, b) for a, b in zip(before, again)) and not torch.allclose(*before)


def calibrated(name: str) -> tuple[nn.Module, Tensor]:
    """A torchvision network, random weights, biases and shifts, BatchNorm statistics of random batches."""
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(weights=None).double().train()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.momentum = None
            if isinstance(part, nn.Dropout):
                part.p = 0.0
        model(torch.randn(8, 3, 64, 64, dtype=torch.float64))
    return model.eval(), torch.randn(1, 3, 64, 64, dtype=torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("network_name", ["resnet18", "vgg11_bn", "mobilenet_v2", "efficientnet_b0"])
def test_distribute_brings_the_logit_to_the_pixels(network_name: str) -> None:
    """0.95 <= sum R / logit <= 1.05 for every conserving composite; everything stays finite."""
    model, x = calibrated(network_name)
    logit = functional.relu(model(x)).max().detach()
    target = int(model(x).argmax())
    names = ("epsilon_plus", "epsilon_plus_flat", "epsilon_alpha2_beta1", "epsilon_alpha2_beta1_flat", "deep_taylor")
    made = [getattr(composites, name)(bias="distribute") for name in names]
    made += [
        composites.epsilon_gamma_box(-4.0, 4.0, bias="distribute"),
        composites.lrp_cmp(bias="distribute", epsilon=1e-6),
    ]
    for composite in made:
        relevance = UnifiedLRP(model, composite=composite).attribute(x, target=target)
        assert torch.isfinite(relevance).all()
        assert 0.95 <= float(relevance.sum() / logit) <= 1.05, composite.name


WRITTEN = {
    "epsilon_plus": ["zplus(stabilizer=1e-06)", "zplus(stabilizer=1e-06)", "epsilon(epsilon=1e-06)"],
    "epsilon_plus_flat": ["flat(stabilizer=1e-06)", "zplus(stabilizer=1e-06)", "epsilon(epsilon=1e-06)"],
    "epsilon_alpha2_beta1": [
        "alphabeta(alpha=2.0, beta=1.0, stabilizer=1e-06)", "alphabeta(alpha=2.0, beta=1.0, stabilizer=1e-06)",
        "epsilon(epsilon=1e-06)",
    ],
    "epsilon_alpha2_beta1_flat": [
        "flat(stabilizer=1e-06)", "alphabeta(alpha=2.0, beta=1.0, stabilizer=1e-06)", "epsilon(epsilon=1e-06)",
    ],
    "epsilon_gamma_box": [
        "zbox(low=-1.0, high=1.0, stabilizer=1e-06)", "gamma(gamma=0.25, stabilizer=1e-06)", "epsilon(epsilon=1e-06)",
    ],
    "deep_taylor": ["wsquare(stabilizer=1e-06)", "zplus(stabilizer=1e-06)", "zplus(stabilizer=1e-06)"],
    "attnlrp": ["epsilon(epsilon=1e-06)"] * 3,
    "attnlrp_gamma": [
        "gamma(gamma=0.25, stabilizer=1e-06)", "gamma(gamma=0.25, stabilizer=1e-06)",
        "gamma(gamma=0.05, stabilizer=1e-06)",
    ],
    "cp_lrp": ["epsilon(epsilon=1e-06)"] * 3,
    "arras": ["epsilon(epsilon=0.001)"] * 3,
    "recurrent": ["epsilon(epsilon=0.1)"] * 3,
    "mamba_lrp": ["epsilon(epsilon=1e-06)"] * 3,
    "guided_backprop": ["zero"] * 3,
    "deconvnet": ["zero"] * 3,
    "lrp_cmp alpha1": ["alphabeta(alpha=1.0, beta=0.0, stabilizer=1e-09)"] * 2 + ["epsilon(epsilon=0.1)"],
    "lrp_cmp alpha1_flat": [
        "flat(stabilizer=1e-09)", "alphabeta(alpha=1.0, beta=0.0, stabilizer=1e-09)", "epsilon(epsilon=0.1)",
    ],
    "lrp_cmp alpha2": ["alphabeta(alpha=2.0, beta=1.0, stabilizer=1e-09)"] * 2 + ["epsilon(epsilon=0.1)"],
    "lrp_cmp alpha2_flat": [
        "flat(stabilizer=1e-09)", "alphabeta(alpha=2.0, beta=1.0, stabilizer=1e-09)", "epsilon(epsilon=0.1)",
    ],
}  # fmt: skip
"""The rules of two convolutions and a dense layer, as the papers in the composites' docstrings give them."""


def test_every_ready_composite_is_written_down() -> None:
    assert {name.split()[0] for name in WRITTEN} == {*composites.ready.READY, "epsilon_gamma_box"}


WITHOUT_BIAS_MODES = ("guided_backprop", "deconvnet", "arras", "recurrent")
"""The first two conserve nothing; in a recurrent kernel a bias always keeps its share."""


@pytest.mark.parametrize(
    ("name", "bias"),
    [
        (name, bias)
        for name in sorted(WRITTEN)
        for bias in ("absorb", "distribute")
        if bias == "absorb" or name not in WITHOUT_BIAS_MODES
    ],
)
def test_ready_composite_gives_these_rules(name: str, bias: str) -> None:
    """With bias="distribute" every rule that has bias modes distributes, and no other rule changes."""
    torch.manual_seed(0)
    body = [nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*body, nn.Linear(8, 3)).double().eval()
    function, _, preset = name.partition(" ")
    bounds = {"low": -1.0, "high": 1.0} if name == "epsilon_gamma_box" else {}
    if name in WITHOUT_BIAS_MODES:
        composite = getattr(composites, function)()
    else:
        composite = getattr(composites, function)(*([preset] if preset else []), **bounds, bias=bias)
    plan = UnifiedLRP(model, composite=composite).plan(X)
    ran = [choice for site, choice in plan.entries if site.linear]
    for choice in ran:
        if "bias" in choice.rule.parameters and "bias" in choice.parameters:
            assert choice.parameters["bias"] == bias
        takes = choice.rule.name in ("epsilon", "zplus", "gamma", "alphabeta") and name not in WITHOUT_BIAS_MODES
        assert ("bias" in choice.parameters) == takes
    texts = [choice.text.replace(f", bias={bias}", "") for choice in ran]
    assert texts == WRITTEN[name]


def test_cp_lrp_holds_attention_weights_constant() -> None:
    """Nothing reaches queries and keys: one explained tensor is all three, another is the value alone."""
    q, k, v = torch.randn(3, 2, 1, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    class Attention(nn.Module):
        def __init__(self, fused: bool) -> None:
            super().__init__()
            self.fused = fused

        def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            if self.fused:
                return functional.scaled_dot_product_attention(query, key, value).flatten(1).sum(1)
            weights = torch.softmax(query @ key.transpose(-1, -2) / 6**0.5, -1)
            return (weights @ value).flatten(1).sum(1)

    for fused in (True, False):
        left, middle, right = UnifiedLRP(Attention(fused).eval(), composite="cp_lrp").attribute((q, k, v))
        assert not left.any() and not middle.any(), fused
        torch.testing.assert_close(right.flatten(1).sum(1), Attention(fused)(q, k, v), rtol=1e-4, atol=0)


@pytest.mark.parametrize("spec", [rule("flat"), rule("wsquare"), rule("zplus", bias="distribute")], ids=str)
@pytest.mark.parametrize("below", ["zplus", "epsilon", "gamma", "alphabeta"])
@pytest.mark.parametrize("where", [first(), nth(1), nth(2), first() | nth(1), nth(1) & convolutions()], ids=str)
def test_ports_that_nobody_asks_for_make_no_difference(where: Selector, below: str, spec: composites.RuleSpec) -> None:
    """Behind the last map that a selector may match no port is carried; a predicate's last map is not known."""
    unknown = predicate(where.matches, "the same, last unknown")
    found = []
    for selector in (where, unknown):
        lrp = UnifiedLRP(network(), composite=Composite([(selector, spec), (linear_maps(), rule(below))]))
        ledger = lrp.ledger(X, target=1)
        found.append((lrp.attribute(X, target=1), ledger.input, ledger.bias, ledger.stabilizer))
    assert (where.final, unknown.final) != (None, 0) and unknown.final is None and where.final is not None
    for with_end, without in zip(*found):
        torch.testing.assert_close(with_end, without, rtol=1e-9, atol=1e-12)


def test_the_last_map_that_a_selector_may_match() -> None:
    ends = {first(): 0, nth(3): 3, last(): None, first() | nth(2): 2, first() | last(): None, dense() & nth(2): 2,
            first() & nth(2): 0, ~first(): None, path("*"): None, depth(0, 0.5): None}  # fmt: skip
    assert {str(selector): selector.final for selector in ends} == {str(s): end for s, end in ends.items()}


def test_one_selector_without_a_known_end_keeps_ports_to_the_end() -> None:
    far = Composite([(first(), rule("flat")), (path("0.5"), rule("flat")), (linear_maps(), rule("zplus"))])
    near = Composite([(predicate(lambda site: site.index in (0, 2)), rule("flat")), (linear_maps(), rule("zplus"))])
    found = [UnifiedLRP(network(), composite=composite).attribute(X, target=1) for composite in (far, near)]
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=0)
    assert found[0].abs().sum() > 0


@pytest.mark.parametrize("below", ["zplus", "alphabeta"])
def test_a_map_rectified_before_and_after_the_last_port(below: str) -> None:
    """Its value was settled while ports were carried; the second ReLU comes when there are none any more."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.maps = nn.ModuleList(nn.Conv2d(1, 1, 3, padding=1) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            z = self.maps[0](x)
            y = self.maps[1](functional.relu(z))
            return self.maps[2](y + functional.relu(z)).sum((1, 2, 3))

    model = Twice().double().eval()
    found = []
    for selector in (nth(1), predicate(lambda site: site.index == 1)):
        lrp = UnifiedLRP(model, composite=Composite([(selector, rule("flat")), (linear_maps(), rule(below))]))
        relevance, delta = lrp.attribute(X, return_convergence_delta=True)
        ledger = lrp.ledger(X)
        torch.testing.assert_close(ledger.output, model(X).detach())
        torch.testing.assert_close(delta, ledger.output - ledger.input, rtol=1e-9, atol=1e-12)
        found.append(relevance)
        output = relevance.flatten(1).sum(1) + delta
        torch.testing.assert_close(output, model(X).detach())
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)


def test_a_subclass_is_of_its_module_s_type() -> None:
    class Own(nn.Linear):
        """A user's."""

    model = nn.Sequential(Own(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    plan = UnifiedLRP(model, composite=Composite([(module(Own), "zero"), (module(nn.Linear), "flat")])).plan(
        X[:, 0, 0, :4].float()
    )
    assert [choice.rule.name for site, choice in plan.entries if site.linear] == ["zero", "flat"]
    every = UnifiedLRP(model, composite=Composite([(module(nn.Linear), "flat")])).plan(X[:, 0, 0, :4].float())
    assert [choice.rule.name for site, choice in every.entries if site.linear] == ["flat", "flat"]


def test_attnlrp_gamma_gives_attention_s_projections_epsilon() -> None:
    """Achtibat et al. 2024, appendix B: gamma elsewhere."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(12, 2)).double().eval()
    plan = UnifiedLRP(model, composite="attnlrp_gamma").plan(torch.randn(1, 2, 6, dtype=torch.float64))
    inside = {choice.rule.name for site, choice in plan.entries if site.linear and "self_attn" in site.path}
    outside = {choice.rule.name for site, choice in plan.entries if site.linear and "self_attn" not in site.path}
    assert (inside, outside) == ({"epsilon"}, {"gamma"})


def test_distribute_passes_a_batch_norm() -> None:
    """A BatchNorm behind a pooling layer is folded into nothing; its shift is handed on all the same."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.AvgPool2d(2), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2)
    )
    model = model.double()
    model(4 + torch.randn(16, 1, 6, 6, dtype=torch.float64))
    nn.init.uniform_(model[3].bias, 1, 2)
    for composite in ("epsilon_plus", "attnlrp"):
        account = UnifiedLRP(model.eval(), composite=composite, bias="distribute").ledger(X + 4, target=1)
        torch.testing.assert_close(account.input, account.output, rtol=1e-4, atol=1e-5)
