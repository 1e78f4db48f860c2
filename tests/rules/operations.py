"""A call of every registered operation, for tests over the whole registry.

Most come from torch's own samples (``torch.testing._internal``: each operation's arguments in many forms); what torch has no
samples of is written here.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple
from unittest import mock

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from lrp_plugin import UnifiedLRP, registry
from lrp_plugin.algebra.nests import tensors_in
from lrp_plugin.errors import UnsupportedOperationError


class _Place(NamedTuple):
    """Stands for a tensor in the arguments; an exported module holds tensors as buffers only."""

    index: int


def _mapped(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, dict):
        return {key: _mapped(item, kind, change) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_mapped(item, kind, change) for item in value)
    return value


class OneCall(nn.Module):
    """(1, n) entries -> the operation's arguments -> the operation -> (1, 1): its outputs, weighted and added up.

    Args:
        function: The operation.
        args, kwargs: What it is called with.
        signals: How many of the floating-point tensors among the arguments are made from the input, from the first on.
    """

    def __init__(self, function: Callable[..., Any], args: Any, kwargs: Any, signals: int = 1) -> None:
        super().__init__()
        self.function = function
        self.places: list[int] = []

        def held(tensor: Tensor) -> _Place:
            self.register_buffer(f"given{len(self.places)}", tensor.detach())
            self.places.append(len(self.places))
            return _Place(self.places[-1])

        self.args, self.kwargs = _mapped(tuple(args), Tensor, held), _mapped(dict(kwargs), Tensor, held)
        fits = [t.is_floating_point() and t.layout is torch.strided for t in self._given()]
        self.signals = [place for place in self.places if fits[place]][:signals]

    def _given(self) -> list[Tensor]:
        return [getattr(self, f"given{place}") for place in self.places]

    def entries(self) -> Tensor:
        """The input, (1, n)."""
        return torch.cat([self._given()[place].reshape(-1) for place in self.signals])[None]

    def value(self, x: Tensor) -> Any:
        """What the operation returns."""
        given = self._given()
        parts = x[0].split([given[place].numel() for place in self.signals])
        for place, part in zip(self.signals, parts):
            given[place] = part.reshape(given[place].shape)
        args, kwargs = (_mapped(what, _Place, lambda place: given[place.index]) for what in (self.args, self.kwargs))
        return self.function(*args, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        outputs = [t for t in tensors_in(self.value(x), []) if t.is_floating_point() or t.is_complex()]
        direct = weighted(x)  # so that the output depends on the input where the operation's value is a constant
        return torch.stack([direct, *(weighted(t) for t in outputs)]).sum().reshape(1, 1)


def weighted(output: Tensor) -> Tensor:
    """Entries times weights of both signs, without a zero, added up."""
    real = torch.view_as_real(output).reshape(-1) if output.is_complex() else output.reshape(-1)
    return (real * torch.linspace(-1.3, 1.7, real.numel(), dtype=torch.float64).to(real.dtype)).sum()


def _lstm(kind: str) -> Any:
    gates = {"lstm": 4, "gru": 3}.get(kind, 1)
    weights = [_drawn(gates * 3, 2), _drawn(gates * 3, 3), _drawn(gates * 3), _drawn(gates * 3)]
    state = _drawn(1, 2, 3)
    states = (state, _drawn(1, 2, 3)) if kind == "lstm" else state
    return getattr(torch, kind), (_drawn(4, 2, 2), states, weights, True, 1, 0.0, False, False, False)


def _cell(kind: str) -> Any:
    _, (x, states, weights, *_) = _lstm(kind)
    state = tuple(s[0] for s in states) if kind == "lstm" else states[0]
    return getattr(torch, f"{kind}_cell"), (x[0], state, *weights)


def _drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def _pools() -> dict[str, Any]:
    shapes = {n: (1, 2, *[6] * n) for n in (1, 2, 3)}
    pools = {
        f"max_pool{n}d_with_indices": (_functional(f"max_pool{n}d_with_indices"), (_drawn(*shapes[n]), 2))
        for n in shapes
    }
    for n in shapes:
        name = f"adaptive_max_pool{n}d_with_indices"
        pools[name] = (_functional(name), (_drawn(*shapes[n]), 2))
    return pools


def _functional(name: str) -> Callable[..., Any]:
    return getattr(functional, name)  # type: ignore[no-any-return]


def _packed(x: Tensor) -> Tensor:
    return nn.utils.rnn.pack_padded_sequence(x, torch.tensor([4, 2]), batch_first=True).data


def _padded(x: Tensor) -> Tensor:
    packed = nn.utils.rnn.PackedSequence(x, torch.tensor([2, 2, 1, 1]))
    return nn.utils.rnn.pad_packed_sequence(packed)[0]


def _set(x: Tensor) -> Tensor:
    held = x.clone()
    held[0] = 1.5
    return held


def _filled(name: str, *rest: Any) -> Callable[[Tensor], Tensor]:
    def written(x: Tensor) -> Tensor:
        held = x.clone()
        getattr(held[1:], name)(*rest)
        return held

    return written


BOXES = torch.tensor([[0, 0.5, 0.5, 4, 5]], dtype=torch.float64)
SPARSE = torch.tensor([[0.0, 1.5], [2.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)


def written_calls() -> dict[str, Any]:
    """``(function, args)`` of operations that torch has no samples of, or under names it does not use."""
    torch.manual_seed(0)
    image, row = _drawn(1, 4, 6, 6), _drawn(3, 4)
    return {
        "detach": (lambda x: x.detach(), (row,)), "affine_grid_generator": (
            lambda t: torch.affine_grid_generator(t, [1, 1, 3, 3], False), (_drawn(1, 2, 3),)),
        "heaviside": (torch.heaviside, (row, torch.tensor(0.5, dtype=torch.float64))),
        "getitem": (lambda x: x[1:, ::2], (row,)), "type": (lambda x: x.type(torch.float64), (row,)),
        "type_as": (lambda x: x.type_as(x.detach()), (row,)), "cuda": None, "cpu": (lambda x: x.cpu(), (row,)),
        "view_as_real": (lambda x: torch.view_as_real(torch.complex(x, x * 2)), (row,)),
        "requires_grad": (lambda x: x.requires_grad_() * 1.0, (row,)),
        "fold": (functional.fold, (_drawn(1, 8, 9), (4, 4), 2)), "adjoint": (torch.adjoint, (row,)),
        "setitem": (_set, (row,)), "slice_scatter": (torch.slice_scatter, (row, _drawn(2, 4), 0, 1)),
        "copy": (_filled("copy_", torch.ones(2, 4, dtype=torch.float64)), (row,)), "zero": (_filled("zero_"), (row,)),
        "fill": (_filled("fill_", 1.5), (row,)), "sparse_mm": (torch.sparse.mm, (SPARSE.to_sparse(), _drawn(2, 3))),
        "lp_pool1d": (functional.lp_pool1d, (_drawn(1, 2, 6), 2.0, 2)),
        "lp_pool2d": (functional.lp_pool2d, (image, 2.0, 2)),
        **{name: (getattr(torchvision.ops, name), (image, BOXES, 2)) for name in
           ("roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool")},
        "grid_sampler": (torch.grid_sampler, (image, torch.rand(1, 3, 3, 2, dtype=torch.float64) - 0.5, 0, 0, False)),
        "real": (lambda x: torch.real(torch.complex(x, x * 2)), (row,)),
        "conj": (lambda x: torch.conj(torch.complex(x, x * 2)).resolve_conj(), (row,)),
        "resolve_conj": (lambda x: torch.conj(torch.complex(x, x * 2)).resolve_conj(), (row,)),
        "conj_physical": (lambda x: torch.conj_physical(torch.complex(x, x * 2)), (row,)),
        "imag": (lambda x: torch.imag(torch.complex(x, x * 2)), (row,)),
        "istft": (lambda x: torch.istft(torch.complex(x[..., 0], x[..., 1]), 8, window=torch.ones(8).double()),
                  (_drawn(5, 4, 2),)),
        "fft_ifft": (lambda x: torch.fft.ifft(x).resolve_conj(), (row,)),
        "fft_ihfft": (lambda x: torch.fft.ihfft(x).resolve_conj(), (row,)),
        "dropout1d": (functional.dropout1d, (row, 0.5, False)),
        "feature_dropout": (torch.feature_dropout, (image, 0.5, False)),
        "special_logit": (torch.special.logit, (torch.rand(3, 4, dtype=torch.float64) * 0.8 + 0.1,)),
        "long": None, "int": None, "short": None, "add_relu": None, "fractional_max_pool2d_with_indices": (
            _fractional(2), (image,)), "fractional_max_pool3d_with_indices": (_fractional(3), (_drawn(1, 1, 4, 4, 4),)),
        "as_tensor": (torch.as_tensor, (row,)), "asarray": (torch.asarray, (row,)),
        "pad_sequence": (lambda x: nn.utils.rnn.pad_sequence([x, x[:2]], padding_value=1.5), (row,)),
        **{f"max_pool{n}d": (_functional(f"max_pool{n}d"), (_drawn(1, 2, *[4] * n), 2)) for n in (1, 2, 3)},
        "ger": (torch.ger, (_drawn(3), _drawn(4))), "rdiv": (lambda x: 2.0 / x, (row,)),
        **_pools(), **{name: _lstm(name) for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")},
        **{f"{name}_cell": _cell(name) for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")},
        "pack_padded_sequence": (_packed, (_drawn(2, 4, 3),)), "pad_packed_sequence": (_padded, (_drawn(6, 3),)),
    }  # fmt: skip


def _fractional(n: int) -> Callable[[Tensor], Any]:
    samples = torch.full((1, 4 if n == 2 else 1, n), 0.3, dtype=torch.float64)
    function = _functional(f"fractional_max_pool{n}d_with_indices")
    return lambda x: function(x, 2, output_size=2, _random_samples=samples)


@functools.cache
def calls() -> dict[str, OneCall]:
    """One call of every registered operation that has one, by its name."""
    from torch.testing._internal import common_utils
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.opinfo import core

    # For each sample it looks through the whole stack, to name the test: 190 of 200 s under pytest.
    with (
        mock.patch.object(common_utils, "extract_test_fn", _no_test),
        mock.patch.object(core, "extract_test_fn", _no_test),
    ):
        return _calls(op_db)


def _no_test() -> None:
    return None


def _calls(op_db: Sequence[Any]) -> dict[str, OneCall]:
    torch.manual_seed(0)
    table: dict[str, list[Any]] = {}
    for entry in op_db:
        names = {entry.name.split(".")[-1], entry.name.replace(".", "_"), entry.aten_name}
        for name in names | {alias.name.split(".")[-1] for alias in entry.aliases}:
            table.setdefault(name, []).append(entry)
    written = written_calls()
    found = {name: OneCall(given[0], given[1], {}) for name, given in written.items() if given is not None}
    wanted = [rule.operation for rule in registry if isinstance(rule.operation, str)]
    for operation in dict.fromkeys(wanted):
        if operation not in written:
            call = next((call for entry in table.get(operation, ()) for call in _from_torch(operation, entry)), None)
            if call is not None:
                found[operation] = call
    return found


def _from_torch(operation: str, entry: Any) -> Iterator[OneCall]:
    """Of an entry of torch's table those calls that run the operation on a few finite numbers."""
    if torch.float64 not in entry.dtypes:
        return
    for sample in itertools.islice(entry.sample_inputs("cpu", torch.float64, requires_grad=True), 20):
        call = OneCall(entry.op, (sample.input, *sample.args), sample.kwargs)
        if not call.signals or not 0 < call.entries().numel() < 2000:
            continue
        try:
            if not bool(torch.isfinite(call(call.entries())).all()):
                continue
            plan = UnifiedLRP(call).plan(call.entries())
        except (RuntimeError, TypeError, ValueError, UnsupportedOperationError):  # a form no network has
            continue
        if operation in [site.name for site, _ in plan.entries]:
            yield call
