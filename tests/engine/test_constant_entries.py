"""bias="distribute" where some entries are constants (a class token, padding): what they cannot take up is booked."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lrp_plugin import Composite, UnifiedLRP, composites, rule
from lrp_plugin.composites import linear_maps, operation
from lrp_plugin.testing import assert_conserves


class Tokens(nn.Module):
    """Linear tokens, a class token before them, a LayerNorm and residual blocks, as a vision transformer's encoder."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.token = nn.Linear(4, 6), nn.Parameter(torch.randn(1, 1, 6))
        self.norm, self.mix, self.hidden, self.head = nn.LayerNorm(6), nn.Linear(4, 4), nn.Linear(6, 6), nn.Linear(6, 2)
        nn.init.normal_(self.norm.bias)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        h = torch.cat([self.token.expand(x.shape[0], -1, -1), self.embed(x)], 1)
        h = h + self.mix(self.norm(h).transpose(1, 2)).transpose(1, 2)
        h = h + self.hidden(functional.gelu(self.norm(h)))
        return self.head(h[:, 0])


SUMS = ("epsilon", "ratio", "equal")
MAPS = ("epsilon", "zero", "zplus", "gamma", "alphabeta", "gamma_montavon", "flat", "wsquare")


@pytest.mark.parametrize("sums", SUMS)
@pytest.mark.parametrize("maps", MAPS)
def test_what_constant_entries_cannot_take_up_is_booked(maps: str, sums: str) -> None:
    """Every row closes; before, 3 % of a ViT's logit left the books at its LayerNorms."""
    x = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    bias = {} if maps in ("flat", "wsquare") else {"bias": "distribute"}
    pairs = [
        (operation("add"), rule(sums)),
        (linear_maps(), rule(maps, **bias)),
        *composites.ready.handing_on("distribute"),
    ]
    lrp = UnifiedLRP(Tokens(), composite=Composite(pairs))
    assert_conserves(lrp, x, 1)


@pytest.mark.parametrize("maps", MAPS)
def test_a_unit_that_reads_constants_alone_keeps_its_bias(maps: str) -> None:
    """A linear map of the class token itself, whose entries are no signal's."""

    class Mapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.token, self.body, self.head = nn.Parameter(torch.randn(1, 1, 4)), nn.Linear(4, 6), nn.Linear(6, 2)
            self.double().eval()

        def forward(self, x: Tensor) -> Tensor:
            h = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
            return self.head(functional.relu(self.body(h))).mean(1)

    x = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    bias = {} if maps in ("flat", "wsquare") else {"bias": "distribute"}
    pairs = [(linear_maps(), rule(maps, **bias)), *composites.ready.handing_on("distribute")]
    assert_conserves(UnifiedLRP(Mapped(), composite=Composite(pairs)), x, 1)


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_the_value_of_padding_is_no_relevances_way(value: float) -> None:
    """``flat`` shares evenly over the entries that are signals: all of it reaches them, whatever stands around them."""
    torch.manual_seed(0)
    head = nn.Linear(5, 2, bias=False).double().eval()
    x = torch.randn(2, 3, dtype=torch.float64)
    found = UnifiedLRP(lambda v: head(functional.pad(v, (1, 1), value=value)), "flat").attribute(x, 1)
    expected = head(functional.pad(x, (1, 1), value=value))[:, 1:] / 3
    torch.testing.assert_close(found, expected.detach().expand(2, 3), rtol=1e-8, atol=0)
