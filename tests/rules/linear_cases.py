"""Linear maps of every kind for the rules' tests, and how a rule is run on one."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from twins import Matrix, written_out

from lrp_plugin import UnifiedLRP
from lrp_plugin.composites import Composite, linear_maps, rule


class Product(nn.Module):
    """A product with a constant matrix, in one of torch's spellings.

    Args:
        spelling: ``"addmm"``, ``"matmul"``, ``"left"`` (the constant stands first), ``"einsum"``, ``"mm"``.
        inputs, outputs: Sizes. bias: Of addmm.
    """

    def __init__(self, spelling: str, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.spelling = spelling
        shape = (outputs, inputs) if spelling == "left" else (inputs, outputs)
        self.weight = nn.Parameter(torch.randn(shape))
        self.bias = nn.Parameter(torch.randn(outputs)) if bias and spelling == "addmm" else None

    def forward(self, x: Tensor) -> Tensor:
        if self.spelling == "addmm":
            bias = torch.zeros(self.weight.shape[1]) if self.bias is None else self.bias
            return torch.addmm(bias.to(x.dtype), x, self.weight)
        if self.spelling == "mm":
            return torch.mm(x, self.weight)
        if self.spelling == "left":
            return self.weight @ x
        if self.spelling == "einsum":
            return torch.einsum("ni,io->no", x, self.weight)
        return x @ self.weight


class Case(nn.Module):
    """[ReLU ->] layer [-> BatchNorm] [-> ReLU], its output weighted by ``multiplier`` and summed to one number.

    So that the relevance at the layer's output is ``z * multiplier``, whatever signs it has.
    """

    def __init__(
        self, layer: nn.Module, shape: tuple[int, ...], before: bool, norm: nn.Module | None, after: bool
    ) -> None:
        super().__init__()
        self.layer, self.shape, self.before, self.norm, self.after = layer, shape, before, norm, after
        self.double().eval()
        with torch.no_grad():
            outputs = layer(torch.zeros(2, *shape, dtype=torch.float64)).shape
        self.multiplier = torch.randn(outputs, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        z = self.layer(functional.relu(x) if self.before else x)
        z = z if self.norm is None else self.norm(z)
        z = functional.relu(z) if self.after else z
        return (z * self.multiplier.to(z.dtype)).flatten(1).sum(1)

    def matrix(self, folded: bool = True) -> Matrix:
        """The layer (with its BatchNorm where ``folded``) written out."""
        ones = [nn.Parameter(torch.ones_like(p)) if name == "weight" else None for name, p in _parameters(self.layer)]
        given = dict(_parameters(self.layer))
        replaced = {name: one if one is not None else torch.zeros_like(given[name]) for name, one in zip(given, ones)}

        def linked(x: Tensor) -> Tensor:
            return torch.func.functional_call(self.layer, replaced, (x,))

        def whole(x: Tensor) -> Tensor:
            return self.norm(self.layer(x)) if folded and self.norm is not None else self.layer(x)

        return written_out(whole, linked, self.shape)

    def __repr__(self) -> str:
        kept = ", ".join(f"{name}={getattr(self, name)}" for name in ("before", "norm", "after"))
        return f"Case({self.layer}, input {self.shape}, {kept})"


def _parameters(layer: nn.Module) -> list[tuple[str, Tensor]]:
    return list(layer.named_parameters())


def batch_norm(channels: int, dimensions: int) -> nn.Module:
    """A BatchNorm with random statistics, scales of both signs among them."""
    norm = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dimensions](channels)
    with torch.no_grad():
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2.0)
        norm.weight.normal_()
        norm.bias.normal_()
    return norm


@st.composite
def layers(draw: Any) -> tuple[nn.Module, tuple[int, ...], int | None]:
    """A linear map, the shape of one example, and BatchNorm's dimensions where one may follow."""
    torch.manual_seed(draw(st.integers(0, 10_000), label="seed"))
    bias = draw(st.booleans(), label="bias")
    kind = draw(st.sampled_from(["linear", "conv1d", "conv2d", "conv2d", "conv3d", "transposed", "product"]))
    if kind == "linear":
        inputs, outputs = draw(st.integers(1, 6)), draw(st.integers(1, 5))
        lead = draw(st.sampled_from([(), (3,)]))
        return nn.Linear(inputs, outputs, bias), (*lead, inputs), 0 if not lead else None
    if kind == "product":
        spelling = draw(st.sampled_from(["addmm", "matmul", "left", "einsum", "mm"]))
        inputs, outputs = draw(st.integers(1, 6)), draw(st.integers(1, 5))
        return Product(spelling, inputs, outputs, bias), (inputs, 2) if spelling == "left" else (inputs,), None
    return draw(_convolutions(kind, bias))


@st.composite
def _convolutions(draw: Any, kind: str, bias: bool) -> tuple[nn.Module, tuple[int, ...], int | None]:
    n = draw(st.integers(1, 3)) if kind == "transposed" else int(kind[4])
    groups = draw(st.sampled_from([1, 1, 2]))
    inside, outside = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    kernel, stride = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    dilation = draw(st.integers(1, 2))
    size = draw(st.integers(dilation * (kernel - 1) + 1, 6 if n < 3 else 5))
    if kind == "transposed":
        maker = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[n - 1]
        padding = draw(st.integers(0, min(1, (dilation * (kernel - 1)) // 2)))
        extra = draw(st.integers(0, stride - 1))
        size = min(size, 3)
        layer: nn.Module = maker(inside, outside, kernel, stride, padding, extra, groups, bias, dilation)
        return layer, (inside, *[size] * n), n
    wanted = draw(st.sampled_from(["same", 0, 1]))
    padding = wanted if wanted != "same" or stride == 1 else 1
    if isinstance(padding, int):
        padding = min(padding, kernel // 2)
    makers = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return makers[n - 1](inside, outside, kernel, stride, padding, dilation, groups, bias), (inside, *[size] * n), n


@st.composite
def cases(draw: Any) -> Case:
    """A layer among its neighbours."""
    layer, shape, dimensions = draw(layers())
    before, after = draw(st.booleans(), label="ReLU before"), draw(st.booleans(), label="ReLU after")
    norm = None
    if dimensions is not None and draw(st.booleans(), label="BatchNorm"):
        with torch.no_grad():
            channels = layer(torch.zeros(2, *shape)).shape[1]
        norm = batch_norm(channels, dimensions)
    return Case(layer, shape, before, norm, after)


def relevance(case: Case, x: Tensor, name: str, **parameters: Any) -> Tensor:
    """The rule as the package runs it, on float64."""
    composite = Composite([(linear_maps(), rule(name, **parameters))])
    return UnifiedLRP(case, composite=composite, stabilizer=0.0).attribute(x)  # type: ignore[no-any-return]
