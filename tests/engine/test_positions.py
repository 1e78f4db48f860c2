"""An argument means the same by its place and by its name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from lrp_plugin import UnifiedLRP, list_rules
from lrp_plugin.algebra.binding import bind
from lrp_plugin.testing import assert_same_as

ALONG = {
    "max": {"dim": 1, "keepdim": True}, "min": {"dim": 1}, "amax": {"dim": 1, "keepdim": True}, "amin": {"dim": 1},
    "median": {"dim": 1, "keepdim": True}, "nanmedian": {"dim": 1}, "kthvalue": {"k": 2, "dim": 1, "keepdim": True},
    "mode": {"dim": 1}, "topk": {"k": 2, "dim": 1, "largest": False}, "sort": {"dim": 1, "descending": True},
    "sum": {"dim": 1, "keepdim": True}, "nansum": {"dim": 1}, "mean": {"dim": 1, "keepdim": True}, "prod": {"dim": 1},
    "logsumexp": {"dim": 1, "keepdim": True}, "std": {"dim": 1, "unbiased": False, "keepdim": True},
    "var": {"dim": 1, "unbiased": False}, "norm": {"p": 2, "dim": 1, "keepdim": True}, "softmax": {"dim": 1},
    "log_softmax": {"dim": 1}, "cumsum": {"dim": 1}, "cumprod": {"dim": 1}, "cummax": {"dim": 1}, "logcumsumexp": {"dim": 1},
    "repeat_interleave": {"repeats": 2, "dim": 1}, "diagonal": {"offset": 1, "dim1": 1, "dim2": 2},
    "diag_embed": {"offset": 1, "dim1": 1, "dim2": 2}, "clamp": {"min": -0.1, "max": 0.3},
    "narrow": {"dim": 1, "start": 0, "length": 2}, "renorm": {"p": 2, "dim": 1, "maxnorm": 1.0},
    "unfold": {"dimension": 2, "size": 2, "step": 1}, "roll": {"shifts": 1, "dims": 1},
    "select": {"dim": 1, "index": 1}, "movedim": {"source": 1, "destination": 2}, "flatten": {"start_dim": 1, "end_dim": 2},
    "permute": {"dims": (0, 2, 1)},
}  # fmt: skip
"""Methods and their arguments in the order in which torch documents them."""

Function = Callable[[Tensor], Any]
OTHERS: dict[str, tuple[Function, Function]] = {
    "torch.max of two": (lambda t: torch.max(t, torch.full_like(t, 0.1)), lambda t: torch.maximum(t, torch.full_like(t, 0.1))),
    "min of a number": (lambda t: t.min(torch.full_like(t[0, 0], 0.1)), lambda t: torch.minimum(t, torch.full_like(t, 0.1))),
    "max of two signals": (lambda t: torch.max(t, t.flip(2)), lambda t: torch.maximum(t, t.flip(2))),
    "std(False)": (lambda t: t.std(False).expand(2, 1), lambda t: t.std(unbiased=False).expand(2, 1)),
    "where": (lambda t: torch.where(t > 0, t, t * 0.1), lambda t: torch.where(condition=t > 0, input=t, other=t * 0.1)),
    "where a constant": (
        lambda t: torch.where(t > 0, t, torch.zeros_like(t)),
        lambda t: torch.where(condition=t > 0, input=t, other=torch.zeros_like(t)),
    ),
    "adaptive_max_pool1d": (
        lambda t: torch.adaptive_max_pool1d(t, 2)[0],
        lambda t: functional.adaptive_max_pool1d(t, output_size=2),
    ),
    "gather": (
        lambda t: t.gather(1, torch.tensor([[[0, 1, 2, 0]]] * 2)),
        lambda t: torch.gather(input=t, dim=1, index=torch.tensor([[[0, 1, 2, 0]]] * 2)),
    ),
    "index_select": (
        lambda t: t.index_select(1, torch.tensor([0, 2])),
        lambda t: torch.index_select(input=t, dim=1, index=torch.tensor([0, 2])),
    ),
    "lerp": (lambda t: torch.lerp(t, t.flip(2), 0.3), lambda t: torch.lerp(input=t, end=t.flip(2), weight=0.3)),
}  # fmt: skip


def network(function: Function) -> Callable[[Tensor], Tensor]:
    """linear -> (3, 4) -> the operation -> linear: rules of the second ask for ports behind the operation."""
    torch.manual_seed(0)
    below, weight = nn.Linear(6, 12).double(), torch.randn(2, 75, dtype=torch.float64)

    def forward(x: Tensor) -> Tensor:
        found = function(below(x).view(x.shape[0], 3, 4))
        found = (found if isinstance(found, Tensor) else found[0]).flatten(1)
        return functional.linear(found, weight[:, : found.shape[1]])

    return forward


X = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
RULES: list[dict[str, Any]] = [{"rule": "epsilon"}, {"rule": "flat"}, {"rule": "epsilon", "bias": "distribute"}]


@pytest.mark.parametrize("how", RULES, ids=str)
@pytest.mark.parametrize("name", ALONG)
def test_a_method_takes_its_arguments_by_place_or_by_name(name: str, how: dict[str, Any]) -> None:
    by_place = network(lambda t: getattr(t, name)(*ALONG[name].values()))
    by_name = network(lambda t: getattr(t, name)(**ALONG[name]))
    assert_same_as(UnifiedLRP(by_name, **how), UnifiedLRP(by_place, **how), X, target=1)


@pytest.mark.parametrize("how", RULES, ids=str)
@pytest.mark.parametrize("name", OTHERS)
def test_a_function_too(name: str, how: dict[str, Any]) -> None:
    first, second = map(network, OTHERS[name])
    assert_same_as(UnifiedLRP(second, **how), UnifiedLRP(first, **how), X, target=1)


class ByName(TorchFunctionMode):
    """Gives every function of torch.nn.functional its arguments by name."""

    def __init__(self) -> None:
        super().__init__()
        self.named: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if getattr(functional, name, None) is not func or name.startswith("max_pool"):  # dispatched without a signature
            return func(*args, **kwargs)
        try:
            stated = list(inspect.signature(func).parameters)
        except ValueError:
            stated = {"conv2d": ["input", "weight", "bias", "stride", "padding", "dilation", "groups"],
                      "linear": ["input", "weight", "bias"]}.get(name, [])  # fmt: skip
        if len(stated) < len(args):
            return func(*args, **kwargs)
        self.named.add(name)
        return func(**dict(zip(stated, args)), **kwargs)


@pytest.mark.parametrize("how", [*RULES, {"rule": "zplus"}, {"composite": "epsilon_plus_flat"}], ids=str)
def test_a_network_is_explained_alike_with_every_argument_named(how: dict[str, Any]) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, bias=False), nn.GroupNorm(2, 4),
        nn.ELU(), nn.Flatten(2), nn.LayerNorm(9), nn.Linear(9, 5), nn.GELU(), nn.Dropout(), nn.Flatten(), nn.Linear(20, 3),
    ).double().eval()  # fmt: skip
    mode = ByName()

    def named(x: Tensor) -> Tensor:
        with mode:
            return plain(x)  # type: ignore[no-any-return]

    x = torch.randn(2, 2, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert_same_as(UnifiedLRP(plain, **how), UnifiedLRP(named, **how), x, target=1)
    assert mode.named >= {"conv2d", "batch_norm", "relu", "linear", "layer_norm", "group_norm"}


# Given more than one place by torch's schemas of that name, or in an order of the package's own (embedding), or lists.
ELSEWHERE = {
    "add", "sub", "addmm", "baddbmm", "as_strided", "as_tensor", "atleast_1d", "atleast_2d", "atleast_3d", "block_diag",
    "cartesian_prod", "einsum", "embedding", "embedding_bag", "fill", "dsplit", "hsplit", "vsplit", "tensor_split", "split",
    "split_with_sizes", "instance_norm", "layer_norm", "log", "log_softmax", "max_pool1d_with_indices", "meshgrid", "repeat",
    "rrelu", "tile", "to", "view", "where",
}  # fmt: skip


def test_every_operations_places_have_the_names_of_its_schema() -> None:
    """Torch states signatures for overrides by hand, some of them wrongly: ``max(input, out)``, ``topk(descending)``."""
    seen, wrong = 0, []
    for name in map(str, list_rules()):
        packet = getattr(torch.ops.aten, name, None)
        if packet is None or name in ELSEWHERE:
            continue
        overloads = [one for one in packet.overloads() if "out" not in one and "names" not in one.lower()]
        for owner in (torch, Tensor):
            function = getattr(owner, name, None)
            if function is None:
                continue
            seen += 1
            for overload in overloads:
                stated = [one.name for one in getattr(packet, overload)._schema.arguments if not one.kwarg_only]
                meant = ["input" if one == "self" else one for one in stated]
                values = [torch.ones(1), *range(len(meant) - 1)]
                bound = bind(function, values, {})
                known = {one for other in overloads for one in _names(packet, other)}
                wrong += [(name, overload, one) for one in bound if one not in known | {"input"}]
    assert not wrong
    assert seen > 200


def _names(packet: Any, overload: str) -> set[str]:
    return {"input" if one.name == "self" else one.name for one in getattr(packet, overload)._schema.arguments}
