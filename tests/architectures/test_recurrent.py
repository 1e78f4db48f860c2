"""LSTM, GRU and RNN: Arras's rule, one and the same in every form torch offers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recurrent_twins import HandWritten, gru_relevance, lstm_relevance
from torch import Tensor, nn

from lrp_plugin import Composite, UnifiedLRP, rule
from lrp_plugin.composites import arras, linear_maps, operation

KINDS = {
    "lstm": (nn.LSTM, {}), "lstm_projected": (nn.LSTM, {"proj_size": 3}), "gru": (nn.GRU, {}),
    "rnn_tanh": (nn.RNN, {}), "rnn_relu": (nn.RNN, {"nonlinearity": "relu"}),
}  # fmt: skip
SIGNAL = Composite([(linear_maps(), rule("zero")), (operation("mul"), rule("signal"))])


def kernel(kind: str, seed: int = 0, features: int = 3, hidden: int = 4, **form: object) -> nn.RNNBase:
    """A small recurrent module of random parameters, in float64, batch first unless told."""
    torch.manual_seed(seed)
    maker, named = KINDS[kind]
    return maker(features, hidden, **{"batch_first": True, **named, **form}).double().eval()


class Weighted(nn.Module):
    """A sequence model's output weighted by fixed numbers: one number per example."""

    def __init__(self, model: nn.Module, weights: Tensor) -> None:
        super().__init__()
        self.model, self.weights = model, weights
        self.eval()

    def forward(self, *inputs: Tensor) -> Tensor:
        """The weighted sum of the output sequence; shape (N,)."""
        value = self.model(*inputs)
        return ((value[0] if isinstance(value, tuple) else value) * self.weights).flatten(1).sum(1)


class WithState(nn.Module):
    """A recurrent module whose initial states are explained too; (N, layers, H) each."""

    def __init__(self, model: nn.RNNBase) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, *state: Tensor) -> Tensor:
        """The output sequence."""
        states = tuple(s.transpose(0, 1).contiguous() for s in state)
        return self.model(x, states if len(states) == 2 else states[0])[0]


sizes = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(0, 10_000))


@given(sizes, st.sampled_from([0.0, 0.05]))
def test_lstm_meets_its_literal_twin(size: tuple[int, int, int, int], epsilon: float) -> None:
    features, hidden, steps, seed = size
    model = kernel("lstm", seed, features, hidden)
    x, h, c = torch.randn(1, steps, features), torch.randn(1, 1, hidden), torch.randn(1, 1, hidden)
    x, h, c, weights = x.double(), h.double(), c.double(), torch.randn(steps, hidden).double()
    composite = Composite([(operation("lstm"), rule("signal", epsilon=epsilon))])
    found = UnifiedLRP(Weighted(WithState(model), weights), composite=composite).attribute((x, h, c))
    with torch.no_grad():
        out = model(x, (h, c))[0][0]
        wanted = lstm_relevance(x[0], h[0, 0], c[0, 0], list(model.parameters()), out * weights, epsilon)
    for mine, theirs in zip(found, wanted):
        torch.testing.assert_close(mine.flatten(), theirs.flatten(), rtol=1e-8, atol=1e-8)
    assert found[0].abs().sum() > 0


@given(sizes, st.sampled_from([0.0, 0.05]))
def test_gru_meets_its_literal_twin(size: tuple[int, int, int, int], epsilon: float) -> None:
    features, hidden, steps, seed = size
    model = kernel("gru", seed, features, hidden)
    x, h = torch.randn(1, steps, features).double(), torch.randn(1, 1, hidden).double()
    weights = torch.randn(steps, hidden).double()
    composite = Composite([(operation("gru"), rule("signal", epsilon=epsilon))])
    found = UnifiedLRP(Weighted(WithState(model), weights), composite=composite).attribute((x, h))
    with torch.no_grad():
        out = model(x, h)[0][0]
        wanted = gru_relevance(x[0], h[0, 0], list(model.parameters()), out * weights, epsilon)
    for mine, theirs in zip(found, wanted):
        torch.testing.assert_close(mine.flatten(), theirs.flatten(), rtol=1e-8, atol=1e-8)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.sampled_from(["lstm", "gru"]), st.booleans(),
       st.integers(0, 10_000))  # fmt: skip
def test_packed_sequences_in_both_directions_meet_the_literal_twin(
    lengths: list[int], kind: str, both: bool, seed: int
) -> None:
    """Each sequence alone through the twin, the reverse direction on the sequence turned round."""
    model, hidden = kernel(kind, seed, bidirectional=both), 4
    x, zeros = torch.randn(len(lengths), max(lengths), 3).double(), torch.zeros(hidden).double()
    composite = Composite([(operation(kind), rule("signal", epsilon=0.05))])
    found = UnifiedLRP(Packed(model, lengths), composite=composite).attribute(x)
    directions = list(model.parameters())
    for place, length in enumerate(lengths):
        alone = x[place, :length]
        with torch.no_grad():
            out = model(alone[None])[0][0]
            wanted = torch.zeros_like(alone)
            for number in range(1 + both):
                turned = (lambda t: t.flip(0)) if number else (lambda t: t)
                given = turned(alone), zeros, zeros, directions[4 * number : 4 * number + 4]
                relevance = turned(out[:, hidden * number : hidden * (number + 1)])
                twin = (
                    lstm_relevance(*given, relevance, 0.05)
                    if kind == "lstm"
                    else gru_relevance(given[0], zeros, given[3], relevance, 0.05)
                )
                wanted += turned(twin[0])
        torch.testing.assert_close(found[place, :length], wanted, rtol=1e-8, atol=1e-8)
        assert found[place, length:].abs().sum() == 0


class Packed(nn.Module):
    """All outputs of packed sequences added up; (N,)."""

    def __init__(self, model: nn.RNNBase, lengths: list[int]) -> None:
        super().__init__()
        self.model, self.lengths = model, torch.tensor(lengths)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """The sum over time and units."""
        packed = nn.utils.rnn.pack_padded_sequence(x, self.lengths, True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(self.model(packed)[0], True)[0].sum((1, 2))


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_kernel_equals_hand_written_cells(kind: str, both: bool) -> None:
    model = kernel(kind, num_layers=2, bidirectional=both)
    x = torch.randn(2, 5, 3).double()
    weights = torch.randn(model(x)[0].shape[1:]).double()
    fused = UnifiedLRP(Weighted(model, weights), composite=SIGNAL, strict=True).attribute(x)
    unrolled = UnifiedLRP(Weighted(HandWritten(model), weights), composite=SIGNAL, strict=True).attribute(x)
    torch.testing.assert_close(fused, unrolled, rtol=1e-8, atol=1e-8)
    assert fused.abs().sum() > 0


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn_tanh"])
@pytest.mark.parametrize("epsilon", [0.0, 0.2])
def test_the_explainer_s_epsilon_reaches_the_kernel(kind: str, epsilon: float) -> None:
    """As a cell by hand with one map of the joined input and state, and as the rule's own parameter."""
    model = kernel(kind)
    x, weights = torch.randn(2, 4, 3).double(), torch.randn(4, 4).double()
    found = UnifiedLRP(Weighted(model, weights), epsilon=epsilon).attribute(x)
    named = Composite([(operation(kind), rule("signal", epsilon=epsilon))])
    assert torch.equal(found, UnifiedLRP(Weighted(model, weights), composite=named).attribute(x))
    zero = UnifiedLRP(Weighted(model, weights), rule="zero", epsilon=epsilon).attribute(x)
    assert torch.equal(found, zero) == (epsilon == 0)
    assert UnifiedLRP(Weighted(model, weights), epsilon=epsilon).ledger(x).gap.abs().max() < 1e-9
    assert torch.equal(found, UnifiedLRP(Weighted(model, weights), composite=arras(epsilon)).attribute(x))
    if kind != "gru":  # its candidate has two maps, one of them behind the reset gate
        by_hand = UnifiedLRP(Weighted(JoinedCells(model), weights), composite=arras(epsilon)).attribute(x)
        torch.testing.assert_close(found, by_hand, rtol=1e-8, atol=1e-8)


def test_a_gru_by_hand_from_constant_zeros_differs_by_the_candidate_s_hidden_bias_alone() -> None:
    model = kernel("gru")
    x, weights = torch.randn(2, 4, 3).double(), torch.randn(4, 4).double()

    def gap() -> float:
        fused = UnifiedLRP(Weighted(model, weights), composite=SIGNAL).attribute(x)
        by_hand = UnifiedLRP(Weighted(HandWritten(model, constant_start=True), weights), composite=SIGNAL)
        assert by_hand.ledger(x).gap.abs().max() < 1e-9
        return float((fused - by_hand.attribute(x)).abs().max())

    assert gap() > 1e-4  # the reset gate takes what the kernel leaves to the bias it multiplies
    with torch.no_grad():
        model.bias_hh_l0[8:] = 0
    assert gap() < 1e-9


class JoinedCells(nn.Module):
    """A cell with one map of the joined input and state, as Arras et al. write theirs."""

    def __init__(self, model: nn.RNNBase) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """The output sequence."""
        weight = torch.cat([self.model.weight_ih_l0, self.model.weight_hh_l0], 1)
        bias, found = self.model.bias_ih_l0 + self.model.bias_hh_l0, []
        h = c = x.new_zeros(len(x), 4)
        for t in range(x.shape[1]):
            z = nn.functional.linear(torch.cat([x[:, t], h], 1), weight, bias)
            if self.model.mode == "LSTM":
                i, f, g, o = z.chunk(4, 1)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(c)
            else:
                h = torch.tanh(z)
            found.append(h)
        return torch.stack(found, 1)


class Cells(nn.Module):
    """torch's own cell module, called step by step."""

    def __init__(self, model: nn.RNNBase) -> None:
        super().__init__()
        maker = {"LSTM": nn.LSTMCell, "GRU": nn.GRUCell}.get(model.mode, nn.RNNCell)
        named = {"nonlinearity": model.mode[4:].lower()} if maker is nn.RNNCell else {}
        self.cell = maker(model.input_size, model.hidden_size, **named).double()
        self.cell.load_state_dict({name.removesuffix("_l0"): value for name, value in model.state_dict().items()})

    def forward(self, x: Tensor) -> Tensor:
        """The output sequence."""
        state, found = None, []
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
            found.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(found, 1)


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn_tanh", "rnn_relu"])
def test_kernel_equals_torch_cells_and_both_close_the_ledger(kind: str) -> None:
    model = kernel(kind)
    x, weights = torch.randn(2, 4, 3).double(), torch.randn(4, 4).double()
    composite = Composite([(operation(model.mode.lower(), f"{model.mode.lower()}_cell"), rule("signal", epsilon=0.1))])
    fused = UnifiedLRP(Weighted(model, weights), composite=composite)
    stepped = UnifiedLRP(Weighted(Cells(model), weights), composite=composite)
    torch.testing.assert_close(fused.attribute(x), stepped.attribute(x), rtol=1e-8, atol=1e-8)
    one, other = fused.ledger(x), stepped.ledger(x)
    assert one.gap.abs().max() < 1e-9 and other.gap.abs().max() < 1e-9
    torch.testing.assert_close(one.bias, other.bias)
    torch.testing.assert_close(one.stabilizer, other.stabilizer)
    assert one.bias.abs().min() > 0 and one.stabilizer.abs().min() > 0


class Forms(nn.Module):
    """A recurrent module used in one of torch's forms, all its outputs read."""

    def __init__(self, model: nn.RNNBase, lengths: list[int] | None, state: object = None) -> None:
        super().__init__()
        self.model, self.lengths, self.state = model, lengths, state
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """All outputs and all last states added up; (N, 1)."""
        first = self.model.batch_first
        if self.lengths is not None:
            x = nn.utils.rnn.pack_padded_sequence(x, torch.tensor(self.lengths), first, enforce_sorted=False)
        out, last = self.model(x, self.state)
        if self.lengths is not None:
            out, _ = nn.utils.rnn.pad_packed_sequence(out, first)
        last = torch.cat(last, -1) if isinstance(last, tuple) else last
        return (out.sum(1 if first else 0).sum(-1) + last.sum((0, -1))).unsqueeze(1)


@pytest.mark.parametrize("form", ["padded", "packed", "time_first", "no_bias", "given_state"])
@pytest.mark.parametrize("kind", KINDS)
def test_ledger_closes_in_every_form(kind: str, form: str) -> None:
    model = kernel(kind, num_layers=2, bidirectional=True, batch_first=form != "time_first", bias=form != "no_bias")
    state = None
    if form == "given_state":
        hidden, cell = torch.randn(4, 3, model.proj_size or 4).double(), torch.randn(4, 3, 4).double()
        state = (hidden, cell) if model.mode == "LSTM" else hidden
    wrapped = Forms(model, [3, 5, 2] if form == "packed" else None, state)
    x = torch.randn(3, 5, 3).double()
    if form == "time_first":
        wrapped = nn.Sequential(Permuted(), wrapped)
    composite = Composite([(operation(model.mode.lower()), rule("signal", epsilon=0.05))])
    lrp = UnifiedLRP(wrapped.eval(), composite=composite, strict=True)
    ledger = lrp.ledger(x, target=0)
    assert ledger.gap.abs().max() < 1e-9
    assert (ledger.bias.abs().max() > 0) == (form != "no_bias")
    assert (ledger.constant.abs().max() > 0) == (form == "given_state")
    relevance, delta = lrp.attribute(x, target=0, return_convergence_delta=True)
    torch.testing.assert_close(delta, ledger.absorbed)
    if form == "packed":
        assert relevance[0, 3:].abs().max() == 0 and relevance[2, 2:].abs().max() == 0
        assert relevance[1].abs().sum() > 0


class Permuted(nn.Module):
    """(N, T, F) to (T, N, F)."""

    def forward(self, x: Tensor) -> Tensor:
        """The first two dimensions exchanged."""
        return x.transpose(0, 1)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.sampled_from(sorted(KINDS)), st.integers(0, 1000))
def test_packed_equals_each_sequence_alone(lengths: list[int], kind: str, seed: int) -> None:
    model = kernel(kind, seed, bidirectional=True)
    x = torch.randn(len(lengths), max(lengths), 3).double()
    together = UnifiedLRP(Forms(model, lengths)).attribute(x, target=0)
    for place, length in enumerate(lengths):
        alone = UnifiedLRP(Forms(model, None)).attribute(x[place : place + 1, :length], target=0)
        torch.testing.assert_close(together[place, :length], alone[0], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_forward_is_bit_identical(kind: str) -> None:
    # Frozen: torch takes another path, an ulp away, where its parameters require gradients.
    model = kernel(kind, num_layers=2, bidirectional=True).float().requires_grad_(False)
    seen = []

    class Watched(nn.Module):
        """Keeps what the model computed."""

        def forward(self, x: Tensor) -> Tensor:
            """The output, kept."""
            out, last = model(x)
            seen.append([out, *(last if isinstance(last, tuple) else (last,))])
            return out.sum((1, 2))

    x = torch.randn(2, 6, 3)
    UnifiedLRP(Watched().eval()).attribute(x)
    with torch.no_grad():
        Watched()(x)
    for inside, plain in zip(*seen):
        assert torch.equal(inside, plain)


def test_dropout_inside_the_kernel_is_refused() -> None:
    class Dropping(nn.Module):
        """Calls the kernel in training mode."""

        def __init__(self) -> None:
            super().__init__()
            self.lstm = kernel("lstm", num_layers=2)
            self.eval()

        def forward(self, x: Tensor) -> Tensor:
            """The summed output."""
            zeros = x.new_zeros(2, x.shape[0], 4)
            weights = list(self.lstm.parameters())
            return torch.lstm(x, (zeros, zeros), weights, True, 2, 0.5, True, False, True)[0].sum((1, 2))

    with pytest.raises(RuntimeError, match=r"dropout=0.5.*model.eval\(\)"):
        UnifiedLRP(Dropping()).attribute(torch.randn(1, 3, 3).double())
