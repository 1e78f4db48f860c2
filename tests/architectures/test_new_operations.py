"""Operations that became defaults: grouped products, losses inside a model, deformable convolutions, vmap, Functions, Mamba."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.autograd import Function
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional
from torch.nn.attention.flex_attention import create_block_mask

from lrp_plugin import UnifiedLRP
from lrp_plugin.composites import attnlrp, mamba_lrp
from lrp_plugin.propagation import losses
from lrp_plugin.testing import assert_conserves, assert_same_as

OPTIONS = [{"epsilon": 0.1}, {"rule": "zplus"}, {"rule": "gamma", "bias": "distribute"}]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Experts(nn.Module):
    """Rows in three groups, one of them empty, each with its own matrix: as grouped_mm and as products."""

    ENDS = torch.tensor([2, 2, 5], dtype=torch.int32)

    def __init__(self, grouped: bool) -> None:
        super().__init__()
        self.weight, self.last, self.grouped = nn.Parameter(drawn(3, 4, 6)), nn.Linear(6, 2).double(), grouped
        with torch.no_grad():
            self.last.weight.copy_(drawn(2, 6, seed=1))
            self.last.bias.copy_(drawn(2, seed=2))

    def forward(self, x: Tensor) -> Tensor:
        if self.grouped:
            h = functional.grouped_mm(x, self.weight, offs=self.ENDS)
        else:
            h = torch.cat([x[:2] @ self.weight[0], x[2:] @ self.weight[2]])
        return self.last(h.relu())  # type: ignore[no-any-return]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_grouped_product_is_a_product_for_each_group(options: dict[str, Any]) -> None:
    plain, spelled = (UnifiedLRP(Experts(grouped).eval(), **options) for grouped in (False, True))
    assert_same_as(plain, spelled, drawn(5, 4, seed=3), target=1)


def test_the_written_out_product_is_torchs() -> None:
    x, weight, ends = drawn(8, 16).bfloat16(), drawn(3, 16, 8, seed=1).bfloat16(), Experts.ENDS * 2 - 2
    torch.testing.assert_close(losses.grouped_mm(x[:8], weight, ends), functional.grouped_mm(x, weight, offs=ends))


@pytest.mark.parametrize("weight", [None, torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)], ids=["", "weighted"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(
    "target", [torch.tensor([2, 0, -100, 1]), drawn(4, 3).softmax(1)], ids=["classes", "probabilities"]
)
def test_cross_entropy_written_out_is_torchs(target: Tensor, reduction: str, smoothing: float, weight: Any) -> None:
    given = {"weight": weight, "reduction": reduction, "label_smoothing": smoothing}
    x = drawn(4, 3, seed=4)
    torch.testing.assert_close(losses.cross_entropy(x, target, **given), functional.cross_entropy(x, target, **given))


@pytest.mark.parametrize("loss", [functional.cross_entropy, functional.mse_loss, functional.l1_loss])
def test_a_loss_beside_the_logits_is_not_warned_about(loss: Any) -> None:
    """As language models with ``labels=`` compute it; and explained itself, its account closes."""
    layer = nn.Linear(4, 3).double().eval()
    labels = torch.tensor([2]) if loss is functional.cross_entropy else drawn(1, 3, seed=5)

    def model(x: Tensor) -> tuple[Tensor, Tensor]:
        logits = layer(x)
        return logits, loss(logits, labels)[None]

    x = drawn(1, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = UnifiedLRP(model, epsilon=0.1, strict=True).attribute(x, target=1)
        ledger = UnifiedLRP(model, output=1, strict=True).ledger(x)
    torch.testing.assert_close(found, UnifiedLRP(layer, epsilon=0.1).attribute(x, target=1))
    assert float(ledger.gap.abs().max()) < 1e-9


class Deformable(nn.Module):
    """A deformable convolution whose places are computed from its input; at rest it is a convolution."""

    def __init__(self, rest: bool, groups: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.places = nn.Conv2d(2, 27, 3, padding=1)
        self.layer = torchvision.ops.DeformConv2d(2, 4, 3, padding=1, groups=groups)
        self.last, self.rest = nn.Linear(4 * 25, 2), rest
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        *offset, mask = self.places(x).chunk(3, 1)
        shifts, factors = torch.cat(offset, 1), mask.sigmoid()
        if self.rest:
            shifts, factors = torch.zeros_like(shifts), torch.ones_like(factors)
        return self.last(self.layer(x, shifts, factors).relu().flatten(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("options", [*OPTIONS, {"composite": "epsilon_plus_flat"}], ids=str)
@pytest.mark.parametrize("groups", [1, 2])
def test_a_deformable_convolution_at_rest_is_a_convolution(groups: int, options: dict[str, Any]) -> None:
    """Flat's ports end where entries are read between places: that composite is held to conservation alone."""
    model = Deformable(True, groups)
    plain = (
        nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, groups=groups), nn.ReLU(), nn.Flatten(), model.last).double().eval()
    )
    plain[0].weight, plain[0].bias = model.layer.weight, model.layer.bias
    x = drawn(2, 2, 5, 5)
    if options.get("rule") == "zplus" or "epsilon" in options:
        assert_same_as(UnifiedLRP(plain, **options), UnifiedLRP(model, **options), x, target=1)
    assert_conserves(UnifiedLRP(Deformable(False, groups), **options, strict=True), x, target=1)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_an_ensemble_by_vmap_is_its_members(options: dict[str, Any]) -> None:
    members = [nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double().eval() for _ in range(3)]
    stacked, base = stack_module_state(members), copy.deepcopy(members[0]).to("meta")

    def one(parameters: Any, buffers: Any, x: Tensor) -> Tensor:
        return functional_call(base, (parameters, buffers), (x,))

    x = drawn(2, 4)
    plain = UnifiedLRP(lambda x: torch.stack([member(x) for member in members]).mean(0), **options)
    spelled = UnifiedLRP(lambda x: vmap(one, in_dims=(0, 0, None))(*stacked, x).mean(0), **options)
    assert_same_as(plain, spelled, x, target=1)
    outside = vmap(torch.sin, in_dims=1, out_dims=1)(x)  # torch's own again
    torch.testing.assert_close(outside, x.sin())


def test_a_block_mask_is_made_inside_a_model() -> None:
    """create_block_mask writes on constants inside vmap."""
    layer = nn.Linear(4, 2).double()

    def model(x: Tensor) -> Tensor:
        made = create_block_mask(lambda b, h, i, j: i >= j, None, None, 16, 16, device="cpu")
        return layer(x) * made.kv_num_blocks.sum()

    x = drawn(2, 4)
    torch.testing.assert_close(UnifiedLRP(model).attribute(x, target=0), UnifiedLRP(layer).attribute(x, target=0))


# ---- Functions by name ---------------------------------------------------------------------------------------------
class GeLUFunction(Function):
    """Written as Bloom's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return functional.gelu(x, approximate="tanh")

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            held = x.detach().requires_grad_()
            return torch.autograd.grad(functional.gelu(held, approximate="tanh"), held, gradient)[0]


class SparsemaxFunction(Function):
    """A softmax stands for it: what is tried is that the Function is known."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        value = x.softmax(-1)
        ctx.save_for_backward(value)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (value,) = ctx.saved_tensors
        return value * (gradient - (value * gradient).sum(-1, keepdim=True))


GeLUFunction.__module__ = "transformers.models.bloom.modeling_bloom"
SparsemaxFunction.__module__ = "entmax.activations"


class Gated(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.values, self.last = (nn.Linear(5, 5).double() for _ in range(3))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)) * self.values(x))  # type: ignore[no-any-return]


@pytest.mark.parametrize("options", [*OPTIONS[:2], {"composite": "cp_lrp"}], ids=str)
@pytest.mark.parametrize(
    ("plain", "named"),
    [
        (lambda x: functional.gelu(x, approximate="tanh"), GeLUFunction.apply),
        (lambda x: x.softmax(-1), SparsemaxFunction.apply),
    ],
    ids=["gelu", "softmax"],
)
def test_a_known_function_is_the_operation_it_is(plain: Any, named: Any, options: dict[str, Any]) -> None:
    first, second = Gated(plain).eval(), Gated(named).eval()
    assert_same_as(UnifiedLRP(first, **options), UnifiedLRP(second, **options), drawn(2, 5), target=1)


# ---- Mamba ---------------------------------------------------------------------------------------------------------
class Mamba(nn.Module):
    """A selective state space as transformers writes it; ``held``: as Jafari et al. detach it, for gradient times input."""

    def __init__(self, held: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.in_proj, self.x_proj, self.dt_proj = nn.Linear(4, 12), nn.Linear(6, 2 + 2 * 3), nn.Linear(2, 6)
        self.out_proj, self.decay, self.skip = (
            nn.Linear(6, 2),
            nn.Parameter(torch.randn(6, 3)),
            nn.Parameter(torch.randn(6)),
        )
        self.held = held
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, 4) to (N, 2)."""
        constant = Tensor.detach if self.held else (lambda t: t)
        h, gate = self.in_proj(x).chunk(2, -1)
        h = h * constant(h.sigmoid()) if self.held else functional.silu(h)
        step, into, out_of = constant(self.x_proj(h)).split([2, 3, 3], -1)
        step = constant(functional.softplus(self.dt_proj(step)))
        decay = constant(torch.exp(-self.decay.exp() * step[..., None]))
        driven = constant(step[..., None] * into[:, :, None]) * h[..., None]
        state, outputs = h.new_zeros(h.shape[0], 6, 3), []
        for t in range(x.shape[1]):
            state = decay[:, t] * state + driven[:, t]
            outputs.append((state @ constant(out_of[:, t])[..., None])[..., 0])
        y = torch.stack(outputs, 1) + h * self.skip
        gate = gate * constant(gate.sigmoid()) if self.held else functional.silu(gate)
        product = y * gate
        product = 0.5 * product + 0.5 * product.detach() if self.held else product
        return self.out_proj(product[:, -1])  # type: ignore[no-any-return]


def test_mamba_lrp_is_gradient_times_input_of_the_detached_network() -> None:
    """Jafari et al. 2024, section 4: A, B, C and the step, SiLU's sigmoid, and half of the gate's product detached."""
    x = drawn(2, 5, 4).requires_grad_()
    twin = Mamba(True)
    (gradient,) = torch.autograd.grad(twin(x)[:, 1].sum(), x)
    torch.testing.assert_close(Mamba(False)(x), twin(x))
    lrp = UnifiedLRP(Mamba(False), composite=mamba_lrp(epsilon=0.0))
    found = lrp.attribute(x.detach(), target=1)
    torch.testing.assert_close(found, x.detach() * gradient, rtol=1e-9, atol=1e-12)
    assert_conserves(lrp, x.detach(), target=1)
    other = UnifiedLRP(Mamba(False), composite=attnlrp(epsilon=0.0)).attribute(x.detach(), target=1)
    assert float((other - found).abs().max()) > 1e-3 * float(found.abs().max())
