"""Laws of the LRP core that the seed broke, each on the layer or network where it was measured broken."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own abbreviation

from lrp_plugin import Composite, UnifiedLRP, UnsupportedOperationError, UnsupportedOperationWarning, rule
from lrp_plugin.composites import module, path


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _without_bias(model: nn.Module) -> nn.Module:
    """Biases, BatchNorm's shifts and running means at 0: then the whole logit must arrive at the input."""
    for name, tensor in model.state_dict().items():
        if name.endswith(("bias", "running_mean")):
            tensor.zero_()
    return model.eval()


def _gradient_times_input(model: nn.Module, x: Tensor, target: int) -> Tensor:
    free = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(free)[:, target].sum(), free)
    return x * gradient


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "densenet121"])
def test_epsilon_tends_to_gradient_times_input(name: str) -> None:
    torch.manual_seed(0)
    # VGG's own initialization takes longer than the test.
    options = {"init_weights": False} if name == "vgg11" else {}
    model = _without_bias(torchvision.models.get_model(name, **options)).double()
    x = torch.randn(1, 3, 64, 64, generator=_seeded(), dtype=torch.float64)
    found = UnifiedLRP(model, epsilon=1e-12).attribute(x, target=1)
    expected = _gradient_times_input(model, x, 1)
    assert (found - expected).norm() / expected.norm() < 1e-5
    assert found.sum().item() == pytest.approx(model(x)[0, 1].item(), rel=1e-5)


RESNETS = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]


@pytest.mark.parametrize(
    ("name", "rule_name"), [*((name, "epsilon") for name in RESNETS), ("resnet18", "zplus"), ("resnet50", "zplus")]
)
def test_a_resnets_relevance_is_its_logit(name: str, rule_name: str) -> None:
    torch.manual_seed(0)
    model = _without_bias(torchvision.models.get_model(name)).double()
    x = torch.randn(1, 3, 32, 32, generator=_seeded(), dtype=torch.float64)
    options = {"epsilon": 1e-12} if rule_name == "epsilon" else {"stabilizer": 1e-12}
    found = UnifiedLRP(model, rule_name, **options).attribute(x, target=1)
    assert found.sum().item() == pytest.approx(model(x)[0, 1].item(), rel=1e-4)


def test_downsample_branches_receive_relevance() -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18().eval()
    ledger = UnifiedLRP(model).ledger(torch.randn(1, 3, 32, 32, generator=_seeded()), target=1)
    for place in ("layer2.0.downsample.0", "layer3.0.downsample.0", "layer4.0.downsample.0"):
        (row,) = [row for row in ledger.rows if row.path == place]
        assert abs(row.relevance_in.item()) > 1e-4


def test_an_addition_shares_in_proportion_to_its_branches() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.left(a) + self.right(b)

    model = Two()
    with torch.no_grad():
        model.left.weight.fill_(3.0)
        model.right.weight.fill_(1.0)
    a, b = UnifiedLRP(model.eval(), epsilon=0.0).attribute((torch.ones(1, 1), torch.ones(1, 1)), target=0)
    # 3 and 1 of 4; a shortcut that is ignored would get nothing though the sum were right.
    assert (a.item(), b.item()) == pytest.approx((3.0, 1.0))


def test_densenets_concatenations_conserve() -> None:
    torch.manual_seed(0)
    model = torchvision.models.densenet121().eval()
    ledger = UnifiedLRP(model, epsilon=1e-6).ledger(torch.randn(1, 3, 32, 32, generator=_seeded()), target=1)
    joined = [row for row in ledger.rows if row.operation == "cat"]
    assert len(joined) > 50
    for row in joined:
        assert row.relevance_in.item() == pytest.approx(row.relevance_out.item(), rel=1e-4, abs=1e-6)
    assert abs(ledger.gap.item()) < 1e-4 * abs(ledger.output.item())


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Linear": (lambda: nn.Linear(12, 5), (2, 12)),
    "ReLU": (nn.ReLU, (2, 3, 9, 9)),
    "Conv2d": (lambda: nn.Conv2d(3, 4, 3), (2, 3, 9, 9)),
    "MaxPool2d": (lambda: nn.MaxPool2d(2), (2, 3, 9, 9)),
    "AvgPool2d": (lambda: nn.AvgPool2d(2), (2, 3, 9, 9)),
    "AdaptiveAvgPool2d": (lambda: nn.AdaptiveAvgPool2d(3), (2, 3, 9, 9)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(3), (2, 3, 9, 9)),
    "Flatten": (nn.Flatten, (2, 3, 9, 9)),
    "Dropout": (nn.Dropout, (2, 3, 9, 9)),
    "Linear without bias": (lambda: nn.Linear(12, 5, bias=False), (2, 12)),
    "dilated": (lambda: nn.Conv2d(3, 4, 3, dilation=2), (2, 3, 9, 9)),
    "grouped": (lambda: nn.Conv2d(4, 8, 3, groups=2), (2, 4, 9, 9)),
    "padding same": (lambda: nn.Conv2d(3, 4, 4, padding="same"), (2, 3, 9, 9)),
    "ceil mode": (lambda: nn.MaxPool2d(2, ceil_mode=True), (2, 3, 9, 9)),
    "overlapping": (lambda: nn.MaxPool2d(3, 2, 1), (2, 3, 9, 9)),
    "average, ceil mode": (lambda: nn.AvgPool2d(2, ceil_mode=True), (2, 3, 9, 9)),
    "average, padded": (lambda: nn.AvgPool2d(3, 2, 1), (2, 3, 9, 9)),
    "adaptive, indivisible": (lambda: nn.AdaptiveAvgPool2d(4), (2, 3, 9, 9)),
    "adaptive, enlarging": (lambda: nn.AdaptiveAvgPool2d(7), (2, 3, 4, 4)),
}


@pytest.mark.parametrize("rule_name", ["epsilon", "alphabeta", "zplus"])
@pytest.mark.parametrize("name", LAYERS)
def test_each_layer_conserves(name: str, rule_name: str) -> None:
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    layer = _without_bias(make())
    model = nn.Sequential(layer, nn.Flatten()).eval()
    # Positive: so that an alpha-beta unit has something of each sign and z+ a receiver.
    x = torch.rand(shape, generator=_seeded()) + 0.1
    options = {"epsilon": 1e-7} if rule_name == "epsilon" else {}
    ledger = UnifiedLRP(model, rule_name, **options).ledger(x, target=1)
    expected = ledger.output - ledger.no_receiver
    assert torch.allclose(ledger.input, expected, rtol=1e-4, atol=1e-6)
    assert torch.allclose(ledger.gap, torch.zeros(2).double(), atol=1e-6)


@pytest.mark.parametrize("kind", ["Linear", "Conv2d"])
def test_alpha_beta_conserves_signed_inputs_with_zero_bias(kind: str) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(30, 6, bias=False) if kind == "Linear" else nn.Conv2d(3, 6, 3, bias=False)
    x = torch.randn((2, 30) if kind == "Linear" else (2, 3, 3, 3), generator=_seeded())
    model = nn.Sequential(layer, nn.Flatten()).eval()
    for alpha, beta in ((2.0, 1.0), (1.0, 0.0), (3.0, 2.0)):
        lrp = UnifiedLRP(model, "alphabeta", alpha=alpha, beta=beta)
        found = lrp.attribute(x, target=3).flatten(1).sum(1)
        assert torch.allclose(found, model(x)[:, 3], rtol=1e-4)
    with pytest.raises(ValueError, match="alpha"):
        UnifiedLRP(model, "alphabeta", alpha=2.0, beta=0.0)


def test_epsilon_absorbs_what_its_formula_says_and_can_be_relative() -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(8, 3, bias=False).eval(), torch.randn(2, 8, generator=_seeded())
    z = model(x)[:, 1].detach().double()
    for epsilon in (0.01, 0.5):
        ledger = UnifiedLRP(model, epsilon=epsilon).ledger(x, target=1)
        assert torch.allclose(ledger.stabilizer, z * epsilon / (z.abs() + epsilon), atol=1e-6)
        assert torch.allclose(ledger.input, z - ledger.stabilizer, atol=1e-6)
    relative = Composite([(module(nn.Linear), rule("epsilon", epsilon=0.1, relative=True))])
    shares = []
    for scale in (1.0, 1000.0):
        ledger = UnifiedLRP(model, composite=relative).ledger(scale * x, target=1)
        shares.append(ledger.stabilizer / ledger.output)
    assert torch.allclose(shares[0], shares[1], rtol=1e-4)
    assert (shares[0] > 0.01).all()


@pytest.mark.parametrize("rule_name", ["epsilon", "zero", "zplus", "alphabeta", "gamma", "flat", "wsquare"])
def test_nothing_becomes_nan(rule_name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2)).eval()
    with torch.no_grad():
        model[0].weight[0].zero_()  # a dead unit: z is exactly 0
    images = torch.stack([torch.zeros(1, 8, 8), torch.full((1, 8, 8), 0.01), torch.ones(1, 8, 8)])
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        found = UnifiedLRP(copy.deepcopy(model).to(dtype), rule_name).attribute(images.to(dtype), target=0)
        assert torch.isfinite(found).all()
        assert found.dtype == dtype


def test_a_batchnorm_is_folded_into_its_convolution() -> None:
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5)
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            tensor.normal_()
        norm.running_var.uniform_(0.5, 2.0)
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    folded = nn.Conv2d(2, 5, 3)
    with torch.no_grad():
        folded.weight.copy_(conv.weight * factor[:, None, None, None])
        folded.bias.copy_((conv.bias - norm.running_mean) * factor + norm.bias)
    tail = [nn.ReLU(), nn.Flatten(), nn.Linear(5 * 16, 3)]
    x = torch.randn(2, 2, 6, 6, generator=_seeded())
    for rule_name in ("zplus", "alphabeta", "gamma"):
        with_norm = UnifiedLRP(nn.Sequential(conv, norm, *tail).eval(), rule_name).attribute(x, target=1)
        by_hand = UnifiedLRP(nn.Sequential(folded, *tail).eval(), rule_name).attribute(x, target=1)
        assert torch.allclose(with_norm, by_hand, atol=1e-6)


def test_functional_calls_reused_modules_and_any_registration_order() -> None:
    class Tangled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(16, 3, bias=False)  # registered first, runs last
            self.act = nn.ReLU()
            self.mix = nn.Conv2d(2, 2, 3, padding=1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            y = self.act(self.mix(x))
            y = F.relu(self.mix(y) + x)
            return self.head(torch.flatten(torch.cat([F.max_pool2d(y, 2), F.avg_pool2d(y, 2)], 1), 1))

    torch.manual_seed(0)
    model, x = Tangled().eval().double(), torch.randn(2, 2, 4, 4, generator=_seeded(), dtype=torch.float64)
    found = UnifiedLRP(model, epsilon=1e-13).attribute(x, target=2)
    assert torch.allclose(found, _gradient_times_input(model, x, 2), atol=1e-8)


def test_an_operation_without_a_rule_is_never_passed_in_silence() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.special.i0(self.fc(x) * 0.1)

    model, x = nn.Sequential(Odd()).eval(), torch.rand(2, 4)
    with pytest.raises(UnsupportedOperationError, match="special_i0"):
        UnifiedLRP(model, strict=True).attribute(x, target=0)
    with pytest.warns(UnsupportedOperationWarning, match="special_i0"):
        found = UnifiedLRP(model).attribute(x, target=0)
    assert found.abs().sum() > 0


def test_rules_by_name_type_and_place_and_ready_composites() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))
    x = torch.rand(1, 1, 8, 8)
    lrp = UnifiedLRP(model.eval(), composite=Composite([(path("2"), "zplus"), (module(nn.Conv2d), "gamma")]))
    chosen = {site.path: choice.rule.name for site, choice in lrp.plan(x).entries}
    assert (chosen["0"], chosen["2"]) == ("gamma", "zplus")
    maps = [
        UnifiedLRP(model, composite=name).attribute(x, target=0)
        for name in ("epsilon_plus", "epsilon_plus_flat", "epsilon_alpha2_beta1", "deep_taylor")
    ]
    assert all(not torch.allclose(a, b) for place, a in enumerate(maps) for b in maps[:place])


class _Tokens(nn.Module):
    def __init__(self, pool: str) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 6, padding_idx=0)
        self.fc = nn.Linear(6 * 5 if pool == "flatten" else 6, 3, bias=False)
        self.pool = pool

    def forward(self, codes: Tensor) -> Tensor:
        e = self.embed(codes)
        if self.pool == "mean":
            e = e.sum(1) / (codes != 0).sum(1, keepdim=True)
        else:
            e = e.sum(1) if self.pool == "sum" else e.flatten(1)
        return self.fc(e)


@pytest.mark.parametrize("pool", ["flatten", "sum", "mean"])
def test_each_token_gets_one_relevance_and_padding_none(pool: str) -> None:
    torch.manual_seed(0)
    model, codes = _Tokens(pool).eval(), torch.tensor([[3, 7, 7, 0, 0], [1, 2, 3, 4, 5]])
    found = UnifiedLRP(model, epsilon=0.0).attribute(codes, target=1)
    assert found.shape == codes.shape
    assert (found[0, 3:] == 0).all()
    assert torch.allclose(found.sum(1), model(codes)[:, 1], atol=1e-5)
    if pool == "sum":
        assert torch.allclose(found, model.embed(codes) @ model.fc.weight[1], atol=1e-5)


def test_other_weights_give_another_map() -> None:
    """The sanity check of Adebayo et al. 2018 (arXiv:1810.03292): a map that survives random weights shows edges."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18().eval()
    x = torch.randn(1, 3, 64, 64, generator=_seeded())
    before = UnifiedLRP(model, composite="epsilon_plus").attribute(x, target=1).sum(1).flatten()
    torch.manual_seed(1)
    model.layer4.apply(lambda layer: layer.reset_parameters() if hasattr(layer, "reset_parameters") else None)
    after = UnifiedLRP(model, composite="epsilon_plus").attribute(x, target=1).sum(1).flatten()
    ranks = torch.stack([before.argsort().argsort(), after.argsort().argsort()]).double()
    assert torch.corrcoef(ranks)[0, 1].item() < 0.9


def test_a_side_by_side_comparison_adds_up_to_the_logit() -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=4).eval()
    x = torch.rand(2, 3, 64, 64, generator=_seeded())
    for name, options in (("epsilon", {"epsilon": 0.1}), ("alphabeta", {"alpha": 2.0, "beta": 1.0})):
        ledger = UnifiedLRP(model, name, **options).ledger(x, target=2)
        assert torch.allclose(ledger.output.float(), model(x)[:, 2], atol=1e-5)
        # The stated tolerance: a hundred-thousandth of the logit.
        assert (ledger.gap.abs() <= 1e-5 * ledger.output.abs()).all()
