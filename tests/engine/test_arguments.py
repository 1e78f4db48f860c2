"""Inputs and further arguments by name, and what is explained of what a model returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lrp_plugin import LayerUnifiedLRP, NeuronUnifiedLRP, UnifiedLRP
from lrp_plugin.composites import Composite, last, linear_maps, rule


@dataclass
class Answer:
    """As models of hospitals' records return."""

    y_prob: Tensor
    risk: Tensor


class Reader(nn.Module):
    """Token ids and vital signs to two answers; the mask and the gain are given by name."""

    def __init__(self, pack: Any = lambda y_prob, risk: y_prob) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.vitals, self.head = nn.Embedding(7, 4), nn.Linear(3, 4), nn.Linear(4, 2)
        self.pack = pack
        self.double().eval()

    def forward(self, ids: Tensor, vitals: Tensor, *, mask: Tensor | None = None, gain: float = 1.0) -> Any:
        """Scores (N, 2), and a risk (N, 3), in ``pack``'s form."""
        words = self.embed(ids)
        if mask is not None:
            words = words * mask.unsqueeze(-1)
        h = torch.relu(words.sum(1) + self.vitals(vitals))
        return self.pack(y_prob=gain * self.head(h), risk=h[:, :3] * 2 - 1)


IDS = torch.tensor([[1, 2, 3], [4, 5, 0]])
VITALS = torch.randn(2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
MASK = (IDS != 0).double()
FURTHER = {"mask": MASK, "gain": 2.0}


def test_names_and_places_give_one_relevance() -> None:
    lrp = UnifiedLRP(Reader(), strict=True)
    by_place = lrp.attribute((IDS, VITALS), target=1, forward_kwargs=FURTHER)
    by_name = lrp.attribute({"vitals": VITALS, "ids": IDS}, target=1, forward_kwargs=FURTHER)
    assert list(by_name) == ["vitals", "ids"]
    assert torch.equal(by_name["ids"], by_place[0]) and torch.equal(by_name["vitals"], by_place[1])
    assert by_place[0][1, 2] == 0 and by_place[0].abs().sum() > 0 and by_place[1].abs().sum() > 0
    fixed = lrp.attribute({"vitals": VITALS}, target=1, forward_kwargs={"ids": IDS, **FURTHER})
    torch.testing.assert_close(fixed["vitals"], by_name["vitals"])
    behind = lrp.attribute({"vitals": VITALS}, 1, IDS, forward_kwargs=FURTHER)
    assert torch.equal(behind["vitals"], fixed["vitals"])


def test_every_way_to_explain_takes_names() -> None:
    model, named = Reader(), {"ids": IDS, "vitals": VITALS}
    lrp = UnifiedLRP(model, composite=Composite([(last(), rule("zplus")), (linear_maps(), rule("epsilon"))]))
    whole, delta = lrp.attribute(named, [1, 0], return_convergence_delta=True, forward_kwargs=FURTHER)
    halves, halved_delta = lrp.attribute(
        named, [1, 0], return_convergence_delta=True, internal_batch_size=1, forward_kwargs=FURTHER
    )
    for name in named:
        torch.testing.assert_close(whole[name], halves[name])
    torch.testing.assert_close(delta, halved_delta)
    ledger = lrp.ledger(named, [1, 0], forward_kwargs=FURTHER)
    assert ledger.gap.abs().max() < 1e-9
    torch.testing.assert_close(ledger.absorbed, delta)
    several = lrp.attribute_targets(named, [[1, 0], 1], forward_kwargs=FURTHER)
    torch.testing.assert_close(several["ids"][0], whole["ids"])
    assert len(lrp.plan(named, forward_kwargs=FURTHER).entries) > 3
    at_layer = LayerUnifiedLRP(model, model.vitals).attribute(
        named, 1, attribute_to_layer_input=True, forward_kwargs=FURTHER
    )
    wanted = UnifiedLRP(model).attribute(named, 1, forward_kwargs=FURTHER)["vitals"]
    torch.testing.assert_close(at_layer, wanted)
    unit = NeuronUnifiedLRP(model, model.vitals, rule="zero").attribute(named, 2, forward_kwargs=FURTHER)
    assert unit["ids"].abs().max() == 0 and unit["vitals"].abs().sum() > 0


@pytest.mark.filterwarnings("error:compile=")
@pytest.mark.parametrize("compile", [False, True])
def test_compiled_passes_take_names_and_outputs(compile: bool) -> None:
    if compile:
        pytest.importorskip("torch._inductor")
    model = Reader(lambda **named: named)
    lrp = UnifiedLRP(model, output="risk", compile=compile)
    for _ in range(2):
        found = lrp.attribute({"vitals": VITALS}, 1, IDS, forward_kwargs=FURTHER)["vitals"]
        plain = UnifiedLRP(lambda v: model(IDS, v, **FURTHER)["risk"]).attribute(VITALS, 1)
        torch.testing.assert_close(found, plain)


PACKS = {
    "dict": (lambda **named: named, "risk"),
    "dataclass": (lambda **named: Answer(**named), "risk"),
    "tuple": (lambda y_prob, risk: (y_prob, risk), 1),
    "function": (lambda **named: named, lambda returned: torch.cat([returned["risk"]], 1)),
}


@pytest.mark.parametrize("kind", PACKS)
def test_output_says_what_is_explained(kind: str) -> None:
    pack, choose = PACKS[kind]
    model, further = Reader(pack), {"ids": IDS}
    plain = Reader(lambda y_prob, risk: risk)
    wanted = UnifiedLRP(plain).attribute({"vitals": VITALS}, 0, forward_kwargs=further)["vitals"]
    lrp = UnifiedLRP(model, output=choose)
    found = lrp.attribute({"vitals": VITALS}, 0, forward_kwargs=further)["vitals"]
    assert torch.equal(found, wanted) and found.abs().sum() > 0
    assert lrp.ledger({"vitals": VITALS}, 0, forward_kwargs=further).gap.abs().max() < 1e-9
    layer = LayerUnifiedLRP(model, model.vitals, output=choose)
    of_layer = layer.attribute({"vitals": VITALS}, 0, attribute_to_layer_input=True, forward_kwargs=further)
    torch.testing.assert_close(of_layer, wanted)
    first = UnifiedLRP(model, output=None).attribute({"vitals": VITALS}, 1, forward_kwargs=further)["vitals"]
    scores = UnifiedLRP(Reader()).attribute({"vitals": VITALS}, 1, forward_kwargs=further)["vitals"]
    assert torch.equal(first, scores)  # y_prob, or a tuple's first tensor


@pytest.mark.parametrize(
    ("pack", "choose", "told"),
    [
        (lambda **named: named, "logits", r"output='logits' gives NoneType.*a dict of y_prob, risk; legal are a name"),
        (lambda **named: Answer(**named), "odds", r"output='odds' gives NoneType.*Answer of y_prob, risk"),
        (lambda y_prob, risk: (y_prob, "text"), 1, r"output=1 gives str.*a tuple of 2 \(Tensor, str\)"),
        (lambda y_prob, risk: (y_prob, risk), 2, r"output=2 gives NoneType"),
        (lambda **named: named, lambda returned: 3.0, r"output=the function given gives float"),
        (lambda y_prob, risk: {"odds": risk}, None, r"a dict of odds, without any of logits.*output="),
    ],
)
def test_an_output_that_is_not_there_is_told(pack: Any, choose: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        UnifiedLRP(Reader(pack), output=choose).attribute((IDS, VITALS), 1)


def test_wrong_arguments_are_told() -> None:
    with pytest.raises(ValueError, match=r"output=\['logits'\]; legal are a name"):
        UnifiedLRP(Reader(), output=["logits"])  # type: ignore[arg-type]
    lrp = UnifiedLRP(Reader())
    with pytest.raises(ValueError, match="ids given both in inputs and in forward_kwargs"):
        lrp.attribute({"ids": IDS, "vitals": VITALS}, 1, forward_kwargs={"ids": IDS})
    with pytest.raises(ValueError, match="3 is no argument's name"):
        lrp.attribute({3: IDS}, 1)  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="inputs must be a tensor or a tuple of tensors"):
        lrp.attribute({"ids": "a text"}, 1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'words'"):
        lrp.attribute({"words": IDS, "vitals": VITALS}, 1)
