"""Add a rule of linear maps as a formula, then a quicker way to the same, and check that it is the same.

Run: python examples/add_a_fast_path.py
"""

import torch
from torch import nn

from lrp_plugin import Composite, UnifiedLRP, registry, rule
from lrp_plugin.composites import linear_maps
from lrp_plugin.fast import switches
from lrp_plugin.fast.maps import shared_out, specialise
from lrp_plugin.fast.redistribution import KnownCarrier
from lrp_plugin.fast.sides import Sides
from lrp_plugin.primitives import POSITIVE, WHOLE, LinearMap, Result, Share, Shares, linear_rule

mine = registry.copy()  # seen by nobody else


@linear_rule("halfway", registry=mine)
def halfway(f: LinearMap, *, stabilizer: float = 1e-9) -> Shares:
    """Half of a unit's relevance by its positive contributions, half by all of them."""
    return Shares(f, (Share(POSITIVE, 0.5), Share(WHOLE, 0.5)), stabilizer)


def halfway_in_one(sides: Sides, shares: Shares) -> Result | None:
    """On a non-negative input the two halves are one modified weight's map wherever neither is empty: ours keeps no input."""
    if not sides.f.nonnegative:
        return None  # the formula as it is written serves
    positive, whole = sides.positive(), sides.whole()
    empty = (positive.value.detach() == 0) | (whole.value.detach() == 0)
    if bool(empty.any()):
        return None  # an empty part's share goes to the other: left to the formula
    halves = [KnownCarrier(part.value, 0.5, sign=part.sign) for part in (positive, whole)]
    return shared_out(sides, halves, shares)


specialise((("positive",), ("whole",)), "halfway_in_one", halfway_in_one)

torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 4))
model.double().eval()
images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
lrp = UnifiedLRP(model, composite=Composite([(linear_maps(), rule("halfway"))]), registry=mine)

fast = lrp.attribute(images, target=1)
with switches.without("halfway_in_one"):
    general = lrp.attribute(images, target=1)
torch.testing.assert_close(fast, general, rtol=1e-9, atol=1e-12)  # the one law
print(
    f"fast equals general: they differ by {float((fast - general).abs().max()):.1e} of {float(general.abs().max()):.2g}"
)
print(f"the ledger closes: gap {float(lrp.ledger(images, target=1).gap.abs().max()):.1e}")
