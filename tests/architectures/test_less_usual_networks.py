"""Graph networks, Fourier operators, unpooling, prototypes: what few image networks have, each with its ledger closed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lrp_plugin import Composite, UnifiedLRP, UnsupportedOperationError, rule
from lrp_plugin.composites import anything, linear_maps, operation

EDGES = torch.tensor([[0, 1, 2, 3, 0, 2, 4], [1, 0, 1, 2, 3, 4, 2]])
NODES = 5


def layer(*sizes: int) -> nn.Linear:
    """A linear layer with a bias of some size."""
    made = nn.Linear(*sizes).double()
    nn.init.normal_(made.bias)
    return made


class GraphNetwork(nn.Module):
    """Two rounds of messages (N, nodes, features), aggregated in one of torch's ways."""

    def __init__(self, aggregate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.aggregate = layer(4, 6), layer(6, 3), aggregate

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.aggregate(self.first(x)))
        return self.aggregate(self.second(h)).mean(1)


def by_index_add(h: Tensor) -> Tensor:
    return torch.zeros_like(h).index_add(1, EDGES[1], h[:, EDGES[0]])


def by_index_add_in_place(h: Tensor) -> Tensor:
    out = torch.zeros_like(h)
    out.index_add_(1, EDGES[1], h[:, EDGES[0]])
    return out


def by_scatter_add(h: Tensor) -> Tensor:
    messages = h[:, EDGES[0]]
    return h.new_zeros(h.shape).scatter_add_(1, EDGES[1][None, :, None].expand_as(messages), messages)


def by_scatter_add_anew(h: Tensor) -> Tensor:
    messages = h[:, EDGES[0]]
    return torch.zeros_like(h).scatter_add(1, EDGES[1][None, :, None].expand_as(messages), messages)


def by_adjacency(h: Tensor) -> Tensor:
    matrix = (
        torch.zeros(NODES, NODES).double().index_put((EDGES[1], EDGES[0]), torch.ones(()).double(), accumulate=True)
    )
    return matrix @ h


def by_sparse_adjacency(h: Tensor) -> Tensor:
    matrix = torch.sparse_coo_tensor(EDGES.flip(0), torch.ones(EDGES.shape[1]).double(), (NODES, NODES))
    return torch.stack([torch.sparse.mm(matrix, each) for each in h])


SUMS = (by_index_add, by_index_add_in_place, by_scatter_add, by_sparse_adjacency)


def reduced(kind: str) -> Callable[[Tensor], Tensor]:
    def aggregate(h: Tensor) -> Tensor:
        messages = h[:, EDGES[0]]
        place = EDGES[1][None, :, None].expand_as(messages)
        return torch.full_like(h, 5.0 if kind == "amin" else 0.1).scatter_reduce(
            1, place, messages, kind, include_self=True
        )

    return aggregate


def attending(h: Tensor) -> Tensor:
    """GAT's: softmax over a node's edges, written with scatter."""
    messages, place = h[:, EDGES[0]], EDGES[1][None, :, None].expand(len(h), -1, h.shape[-1])
    scores = functional.leaky_relu(messages + h[:, EDGES[1]], 0.2)
    largest = torch.full_like(h, -torch.inf).scatter_reduce(1, place, scores.detach(), "amax").gather(1, place)
    powers = (scores - largest).exp()
    totals = torch.zeros_like(h).scatter_add(1, place, powers).gather(1, place)
    return torch.zeros_like(h).scatter_add(1, place, messages * (powers / totals))


@pytest.mark.parametrize("name", ["epsilon", "zplus", "gamma"])
@pytest.mark.parametrize("aggregate", SUMS)
def test_messages_added_up_are_the_adjacency_s_product(aggregate: Callable[[Tensor], Tensor], name: str) -> None:
    torch.manual_seed(0)
    model, x = GraphNetwork(aggregate).double().eval(), torch.randn(2, NODES, 4).double()
    dense = GraphNetwork(by_adjacency).double().eval()
    dense.load_state_dict(model.state_dict())
    # The adjacency is a constant matrix of ones: LRP-0 through it is a plain sum.
    pairs = [(operation("matmul"), rule("zero")), (operation("linear"), rule(name)), (anything(), rule("epsilon"))]
    composite = Composite([pairs[0], pairs[1], (linear_maps(), rule("zero"))])
    mine, theirs = (UnifiedLRP(each, composite=composite, strict=True) for each in (model, dense))
    relevance = mine.attribute(x, target=1)
    torch.testing.assert_close(relevance, theirs.attribute(x, target=1), rtol=1e-9, atol=1e-11)
    assert relevance.abs().sum() > 0 and mine.ledger(x, target=1).gap.abs().max() < 1e-10


@pytest.mark.parametrize("aggregate", [reduced("sum"), reduced("mean"), reduced("amax"), reduced("amin"), attending])
def test_graph_networks_close_the_ledger(aggregate: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model, x = GraphNetwork(aggregate).double().eval(), torch.randn(2, NODES, 4).double()
    lrp = UnifiedLRP(model, "epsilon", strict=True)
    assert lrp.ledger(x, target=1).gap.abs().max() < 1e-10
    assert lrp.attribute(x, target=1).abs().sum() > 0


@pytest.mark.parametrize("name", ["epsilon", "zero"])
def test_product_with_a_sparse_matrix_is_that_with_a_dense_one(name: str) -> None:
    torch.manual_seed(0)
    first, x = layer(4, 6), torch.randn(NODES, 4).double()
    matrix = torch.sparse_coo_tensor(EDGES, torch.randn(EDGES.shape[1]).double(), (NODES, NODES))
    sparse = UnifiedLRP(lambda x: (matrix @ first(x[0])).sum().view(1), name, strict=True)
    dense = UnifiedLRP(lambda x: (matrix.to_dense() @ first(x[0])).sum().view(1), name, strict=True)
    torch.testing.assert_close(sparse.attribute(x[None]), dense.attribute(x[None]), rtol=1e-9, atol=1e-11)
    assert sparse.ledger(x[None]).gap.abs().max() < 1e-10
    with pytest.raises(UnsupportedOperationError, match="'matmul' with a sparse matrix.*torch.sparse.mm"):
        UnifiedLRP(lambda x: (matrix @ first(x[0])).sum().view(1), "zplus").attribute(x[None])


@pytest.mark.parametrize("aggregate", [by_index_add, by_scatter_add_anew])
def test_relevance_without_a_value_reaches_the_senders_of_messages(aggregate: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    first, x = layer(4, 6), torch.randn(2, NODES, 4).double()
    flat = Composite([(linear_maps(), rule("flat"))])

    def model(x: Tensor) -> Tensor:  # most nodes' sums of rectified values are 0, and flat sends to them alike
        return last(aggregate(torch.relu(first(x) - 4.0)).flatten(1))

    last = layer(6 * NODES, 3)
    ledger = UnifiedLRP(model, composite=flat, strict=True).ledger(x, target=1)
    assert ledger.gap.abs().max() < 1e-10 and ledger.no_receiver.abs().max() < 1e-10
    assert (torch.relu(first(x) - 4.0) == 0).double().mean() > 0.9


@pytest.mark.parametrize("kind", ["sum", "mean", "amax"])
def test_graph_networks_in_half_precision(kind: str) -> None:
    torch.manual_seed(0)
    model, x = GraphNetwork(reduced(kind)).to(torch.bfloat16).eval(), torch.randn(2, NODES, 4).to(torch.bfloat16)
    ledger = UnifiedLRP(model, "epsilon", strict=True).ledger(x, target=1)
    assert ledger.gap.abs().max() < 32 * torch.finfo(torch.bfloat16).eps * ledger.output.abs().max()


def test_product_by_index_says_what_to_do() -> None:
    with pytest.raises(UnsupportedOperationError, match="reduce='prod'.*register_rule"):
        UnifiedLRP(GraphNetwork(reduced("prod")).double().eval()).attribute(torch.randn(2, NODES, 4).double(), target=0)


# ---- spectra ---------------------------------------------------------------------------------------------------
class Spectral(nn.Module):
    """A Fourier neural operator's layer: the lowest frequencies take complex weights (Li et al. 2021)."""

    def __init__(self, channels: int, modes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, channels, modes, modes, dtype=torch.complex128) / channels)
        self.modes = modes

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(x)
        out = torch.zeros_like(spectrum)
        low = spectrum[:, :, : self.modes, : self.modes]
        out[:, :, : self.modes, : self.modes] = torch.einsum("bixy,ioxy->boxy", low, self.weight)
        return torch.fft.irfft2(out, s=x.shape[-2:])


class FourierOperator(nn.Module):
    """Two spectral layers with pointwise ones beside them."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.lift, self.head = nn.Conv2d(1, 4, 1), nn.Linear(4, 3)
        self.spectral = nn.ModuleList([Spectral(4, 3) for _ in range(2)])
        self.pointwise = nn.ModuleList([nn.Conv2d(4, 4, 1) for _ in range(2)])
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        h = self.lift(x)
        for spectral, pointwise in zip(self.spectral, self.pointwise):
            h = self.activation(spectral(h) + pointwise(h))
        return self.head(h.mean((2, 3)))


def test_fourier_operator_is_gradient_times_input_and_closes_the_ledger() -> None:
    torch.manual_seed(0)
    model, x = FourierOperator(torch.relu).double().eval(), torch.randn(2, 1, 12, 12).double().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x)[:, 1].sum(), x)
    relevance = UnifiedLRP(model, "zero", strict=True).attribute(x, target=1)
    torch.testing.assert_close(relevance, (gradient * x).detach(), rtol=1e-9, atol=1e-12)
    damped = UnifiedLRP(FourierOperator(functional.gelu).double().eval(), "epsilon", strict=True)
    ledger = damped.ledger(x.detach(), target=1)
    assert ledger.gap.abs().max() < 1e-12 and ledger.stabilizer.abs().max() > 1e-6


@pytest.mark.parametrize("name", ["zplus", "alphabeta", "gamma"])
def test_complex_maps_have_no_sign(name: str) -> None:
    model = FourierOperator(torch.relu).double().eval()
    with pytest.raises(UnsupportedOperationError, match=r"'einsum' on complex numbers.*choose 'epsilon'"):
        UnifiedLRP(model, name).attribute(torch.randn(1, 1, 12, 12).double(), target=0)
    mixed = Composite([(operation("einsum"), rule("epsilon")), (linear_maps(), rule(name))])
    lrp = UnifiedLRP(model, composite=mixed, strict=True)
    assert lrp.ledger(torch.randn(1, 1, 12, 12).double(), target=0).gap.abs().max() < 1e-10


def test_constant_parts_of_complex_numbers_are_booked() -> None:
    x = torch.randn(2, 6).double()
    lrp = UnifiedLRP(lambda x: torch.fft.irfft(torch.complex(x, torch.ones(6).double()), n=10)[:, 1], strict=True)
    ledger = lrp.ledger(x)
    assert ledger.gap.abs().max() < 1e-12 and ledger.constant.abs().min() > 1e-3
    conjugate = torch.randn(6, dtype=torch.complex128)

    def product(x: Tensor) -> Tensor:
        return torch.stack([torch.vdot(torch.complex(each, 2 * each), conjugate).imag for each in x])

    (gradient,) = torch.autograd.grad(product(given := x.clone().requires_grad_()).sum(), given)
    torch.testing.assert_close(UnifiedLRP(product, "zero", strict=True).attribute(x), gradient * x)


def test_an_integral_over_places_of_the_model_s_own_is_a_product() -> None:
    torch.manual_seed(0)
    first, second, x = layer(4, 6), layer(4, 6), torch.randn(3, 4).double()
    lrp = UnifiedLRP(lambda x: torch.trapezoid(first(x), second(x)), strict=True)
    assert lrp.ledger(x).gap.abs().max() < 1e-10


def test_fourier_mixing_closes_the_ledger() -> None:
    torch.manual_seed(0)
    first, last, x = layer(6, 6), layer(6, 2), torch.randn(2, 5, 6).double()

    def model(x: Tensor) -> Tensor:  # FNet (Lee-Thorp et al. 2022)
        h = first(x)
        return last(torch.relu(torch.fft.fft2(h).real + h).mean(1))

    assert UnifiedLRP(model, "epsilon", strict=True).ledger(x, target=1).gap.abs().max() < 1e-10


# ---- operations torch has whole --------------------------------------------------------------------------------
torch.manual_seed(3)
VECTOR, MATRIX = torch.rand(6).double() + 0.5, torch.randn(6, 3).double()
WHOLE: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "tensordot": (lambda h: torch.tensordot(h, MATRIX, 1), lambda h: h @ MATRIX),
    "tensordot by dims": (
        lambda h: torch.tensordot(MATRIX, h.view(-1, 2, 3), dims=([1], [2])).flatten(0, 0).permute(1, 0, 2).flatten(1),
        lambda h: torch.einsum("ij,nkj->nik", MATRIX, h.view(-1, 2, 3)).flatten(1),
    ),
    "inner": (lambda h: torch.inner(h, MATRIX.T), lambda h: h @ MATRIX),
    "dot": (lambda h: torch.stack([each.dot(VECTOR) for each in h]), lambda h: h @ VECTOR),
    "vecdot": (lambda h: torch.linalg.vecdot(h, VECTOR[None]), lambda h: (h * VECTOR).sum(1)),
    "multi_dot": (lambda h: torch.linalg.multi_dot([h, MATRIX, MATRIX.T]), lambda h: h @ MATRIX @ MATRIX.T),
    "chain_matmul": (lambda h: torch.chain_matmul(h, MATRIX), lambda h: h @ MATRIX),
    "addmv": (lambda h: torch.addmv(torch.ones(len(h)).double(), h, VECTOR, beta=2), lambda h: h @ VECTOR + 2),
    "addbmm": (
        lambda h: torch.addbmm(torch.ones(1, 3).double(), h[:, None, :].transpose(0, 1)[:, :1], MATRIX[None], alpha=3.0),
        lambda h: 3 * (h[:1] @ MATRIX) + 1,
    ),
    "addr": (lambda h: torch.addr(torch.zeros(6, 3).double(), h[0], MATRIX[0]), lambda h: h[0][:, None] * MATRIX[0]),
    "outer": (lambda h: torch.outer(h[0], VECTOR), lambda h: h[0][:, None] * VECTOR),
    "kron": (lambda h: torch.kron(h, VECTOR[None]), lambda h: (h[:, :, None] * VECTOR).flatten(1)),
    "cosine": (
        lambda h: functional.cosine_similarity(h, VECTOR[None]),
        lambda h: ((h / h.norm(dim=1, keepdim=True)) * (VECTOR / VECTOR.norm())).sum(1),
    ),
    "cosine of two": (
        lambda h: functional.cosine_similarity(h, h.flip(1)),
        lambda h: ((h / h.norm(dim=1, keepdim=True)) * (h.flip(1) / h.norm(dim=1, keepdim=True))).sum(1),
    ),
    "pairwise_distance": (
        lambda h: functional.pairwise_distance(h, VECTOR[None]), lambda h: (h - VECTOR + 1e-6).norm(dim=1),
    ),
    "cdist": (
        lambda h: torch.cdist(h, MATRIX.T), lambda h: torch.stack([(h - p).norm(dim=1) for p in MATRIX.T], 1),
    ),
    "dist": (
        lambda h: torch.stack([torch.dist(each, VECTOR) for each in h]), lambda h: (h - VECTOR).norm(dim=1),
    ),
    "hypot": (lambda h: torch.hypot(h, h.flip(1)), lambda h: torch.stack([h, h.flip(1)]).norm(dim=0)),
    "logaddexp": (lambda h: torch.logaddexp(h, h.flip(1)), lambda h: torch.stack([h, h.flip(1)]).logsumexp(0)),
    "prod": (lambda h: h[:, :2].prod(1), lambda h: h[:, 0] * h[:, 1]),
    "cumprod": (lambda h: h[:, :2].cumprod(1), lambda h: torch.stack([h[:, 0], h[:, 0] * h[:, 1]], 1)),
    "trapezoid": (lambda h: torch.trapezoid(h, dx=0.5), lambda h: (h[:, 1:] + h[:, :-1]).sum(1) * 0.25),
    "nanmean": (lambda h: h.nanmean(1), lambda h: h.mean(1)),
    "block_diag": (lambda h: torch.block_diag(h, h), lambda h: torch.cat([h, h])),
    "quantile": (lambda h: h.quantile(0.5, dim=1), lambda h: h.sort(1).values[:, 2:4].mean(1)),
    "logsigmoid": (functional.logsigmoid, lambda h: -functional.softplus(-h)),
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_operation_is_what_it_is_written_out(name: str) -> None:
    torch.manual_seed(0)
    first, x = layer(4, 6), torch.randn(3, 4).double()
    found = []
    for form in WHOLE[name]:
        lrp = UnifiedLRP(lambda x, form=form: form(first(x[0])).sum().view(1), "epsilon", strict=True)
        found.append(lrp.attribute(x[None]))
        assert lrp.ledger(x[None]).gap.abs().max() < 1e-10
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-11)
    assert found[0].abs().sum() > 0


@pytest.mark.parametrize("name", ["epsilon", "zplus", "flat", "wsquare", "alphabeta"])
def test_a_signal_that_is_both_factors_is_a_product_of_two(name: str) -> None:
    torch.manual_seed(0)
    first, x = layer(4, 6), torch.randn(3, 4).double()
    both = UnifiedLRP(lambda x: (h := first(x), torch.einsum("bi,bj->bij", h, h))[1].sum((1, 2)), name, strict=True)
    apart = UnifiedLRP(lambda x: (h := first(x), h[:, :, None] * h[:, None])[1].sum((1, 2)), name, strict=True)
    torch.testing.assert_close(both.attribute(x), apart.attribute(x), rtol=1e-9, atol=1e-11)
    assert both.ledger(x).gap.abs().max() < 1e-10


@pytest.mark.parametrize("function", ["prod", "cumprod"])
def test_products_of_many_entries_share_evenly(function: str) -> None:
    x = torch.tensor([[2.0, -3.0, 0.5], [1.0, 4.0, 0.0]], dtype=torch.float64)
    lrp = UnifiedLRP(lambda x: getattr(torch, function)(x, 1).reshape(len(x), -1)[:, -1:].sum(1), strict=True)
    torch.testing.assert_close(lrp.attribute(x), x.prod(1, keepdim=True).expand(2, 3) / 3)
    whole = UnifiedLRP(lambda x: x.prod().view(1), strict=True).attribute(x[:1])
    torch.testing.assert_close(whole, torch.full((1, 3), -1.0).double())


def test_layers_made_in_the_forward_pass_and_outputs_given() -> None:
    def model(x: Tensor) -> Tensor:
        torch.manual_seed(0)
        return nn.Linear(4, 2).double()(x)  # nn.init writes to its argument, named

    x = torch.randn(3, 4).double()
    lrp = UnifiedLRP(model, "zero")
    assert lrp.ledger(x, target=1).gap.abs().max() < 1e-12 and lrp.attribute(x, target=1).abs().sum() > 0
    with pytest.raises(UnsupportedOperationError, match="out="):
        UnifiedLRP(lambda x: torch.inner(x, MATRIX[:4].T, out=torch.empty(3, 3).double())).attribute(x, target=0)


def test_a_step_is_a_constant() -> None:
    x = torch.randn(3, 4).double()
    lrp = UnifiedLRP(lambda x: (x * torch.heaviside(x, torch.zeros(()).double())).sum(1), strict=True)
    torch.testing.assert_close(lrp.attribute(x), x.clamp(min=0))


# ---- unpooling, sampling ---------------------------------------------------------------------------------------
class SegNet(nn.Module):
    """One stage of Badrinarayanan et al. 2017: the decoder puts maxima back where the encoder found them."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
        self.encode, self.decode = conv(1, 3, 3, padding=1), conv(3, 2, 3, padding=1)
        self.pool = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[dimensions - 1](2, return_indices=True)
        self.unpool = (nn.MaxUnpool1d, nn.MaxUnpool2d, nn.MaxUnpool3d)[dimensions - 1](2)

    def forward(self, x: Tensor) -> Tensor:
        h, indices = self.pool(torch.relu(self.encode(x)))
        return self.decode(self.unpool(h, indices)).flatten(2).mean(2)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_unpooling_is_gradient_times_input_and_keeps_ports(dimensions: int) -> None:
    torch.manual_seed(0)
    model, x = SegNet(dimensions).double().eval(), torch.randn(2, 1, *[8] * dimensions).double().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x)[:, 1].sum(), x)
    relevance = UnifiedLRP(model, "zero", strict=True).attribute(x, target=1)
    torch.testing.assert_close(relevance, (gradient * x).detach(), rtol=1e-9, atol=1e-12)
    flat = UnifiedLRP(model, composite=Composite([(linear_maps(), rule("flat"))]), strict=True)
    ledger = flat.ledger(x.detach(), target=1)
    assert ledger.gap.abs().max() < 1e-10
    torch.testing.assert_close(ledger.input + ledger.no_receiver, ledger.output, rtol=1e-6, atol=1e-9)


def test_sampling_places_receive_nothing() -> None:
    torch.manual_seed(0)
    places, read, image = layer(16, 6), nn.Conv2d(1, 3, 3).double(), torch.randn(2, 1, 4, 4).double()

    def model(x: Tensor, still: bool = False) -> Tensor:  # a spatial transformer (Jaderberg et al. 2015)
        theta = places(x.flatten(1)).view(-1, 2, 3) * 0.1 + torch.eye(2, 3).double()
        grid = functional.affine_grid(theta.detach() if still else theta, list(x.shape), align_corners=False)
        flow = 0.1 * torch.tanh(x).permute(0, 2, 3, 1)  # and a displacement of each place
        grid = grid + (flow.detach() if still else flow)
        return read(functional.grid_sample(x, grid, align_corners=False)).mean((2, 3))

    lrp = UnifiedLRP(model, "epsilon", strict=True)
    assert lrp.ledger(image, target=1).gap.abs().max() < 1e-12
    still = lrp.attribute(image, target=1, additional_forward_args=(True,))
    torch.testing.assert_close(lrp.attribute(image, target=1), still)
