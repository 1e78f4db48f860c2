"""A rule chosen by a metric: the search finds a planted winner, the report is on data it did not see."""

from __future__ import annotations

import math

import pytest
import torch
from test_compare import Net, data
from torch import Tensor, nn

import lrp_plugin.composites as composites
from lrp_plugin import Composite, UnifiedLRP, rule
from lrp_plugin.composites import linear_maps
from lrp_plugin.composites.ready import handing_on
from lrp_plugin.evaluation import Candidate, Metric, candidates, compare, recommend

QUIET = {"progress": False}


class Attentive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 3)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm = nn.LSTM(4, 5, batch_first=True)
        self.head = nn.Linear(5, 3)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


KINDS = {
    "convolutional": (Net, torch.rand(2, 1, 12, 12)),
    "attentive": (Attentive, torch.randn(2, 5, 4)),
    "recurrent": (Recurrent, torch.randn(2, 5, 4)),
    "dense": (lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval(), torch.randn(2, 4)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_candidate_runs_and_is_its_code(kind: str) -> None:
    make, x = KINDS[kind]
    model = make()
    found = candidates(model, x, (0.0, 1.0))
    assert len({one.name for one in found}) == len(found) >= 8
    assert any("CP" in one.name for one in found) == (kind == "attentive")
    assert all(one.name.startswith("recurrent") for one in found) == (kind == "recurrent")
    room = {**vars(composites), "rule": rule, "Composite": Composite, "handing_on": handing_on, "low": 0.0, "high": 1.0}
    for one in found:
        assert eval(one.code, dict(room)) == one.composite, one.code
        assert torch.isfinite(UnifiedLRP(model, composite=one.composite).attribute(x, target=0)).all(), one.name


def test_the_search_finds_a_planted_winner_and_reports_it_on_the_rest() -> None:
    """A metric that likes maps which equal one candidate's; the examples of search and report are disjoint and all."""
    model, (x, y, _) = Net(), data(40)
    wanted = Composite([(linear_maps(), rule("gamma", gamma=0.5))])
    seen: list[Tensor] = []

    def closeness(case) -> Tensor:
        seen.append(case.inputs)
        best = UnifiedLRP(model, composite=wanted).attribute(case.inputs, target=case.target)
        return -(case.relevance - best).flatten(1).norm(dim=1)

    tried = [Candidate(f"gamma {g}", Composite([(linear_maps(), rule("gamma", gamma=g))]), "code") for g in
             (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 2.0)]  # fmt: skip
    found = recommend(model, (x, y), metric=Metric("close", "close", True, closeness), tried=tried, **QUIET)
    assert found.name == "gamma 0.5" and found.composite == wanted
    assert [len(one.scores) for one in found.rounds] == sorted((len(one.scores) for one in found.rounds), reverse=True)
    assert len(found.rounds) > 1 and len(found.rounds[0].scores) == 10 and len(found.rounds[1].scores) == 4
    assert found.interval.mean == 0 and found.better
    used = {tuple(one.flatten().tolist()) for one in seen[0]}
    for part in seen[: sum(len(one.scores) for one in found.rounds)]:
        used |= {tuple(one.flatten().tolist()) for one in part}
    reported = {tuple(one.flatten().tolist()) for one in seen[-1]}
    assert not used & reported and len(used) + len(reported) == 40
    assert len(found.held_out.targets) == len(reported)
    assert set(found.held_out.methods) == {"recommended", "saliency", "input_x_gradient", "integrated_gradients", "gradcam",
                                           "default (epsilon)", "random"}  # fmt: skip


def test_it_says_plainly_that_nothing_beats_the_baseline() -> None:
    model, (x, y, _) = Net(), data(24)
    like = Metric("like", "like", True, lambda case: -(case.relevance - case.relevance.abs()).flatten(1).norm(dim=1))
    tried = [Candidate("epsilon", Composite([(linear_maps(), rule("epsilon", epsilon=1e-6))]), "code")]
    found = recommend(model, (x, y), metric=like, tried=tried, baselines=("saliency",), **QUIET)
    assert not found.better and found.against("saliency").high < 0 and found.best_baseline == "saliency"
    assert "No candidate beats the baseline: saliency is better" in str(found)
    lower = Metric("unlike", "unlike", False, lambda case: -like.evaluate(case))
    turned = recommend(model, (x, y), metric=lower, tried=tried, baselines=("saliency",), **QUIET)
    assert turned.against("saliency").high < 0 and turned.best_baseline == "saliency"


def test_the_real_search_on_a_small_network_and_other_data_for_the_report() -> None:
    model, (x, y, mask) = Net(), data(18)
    found = recommend(
        model, (x, y, mask), held_out=(x[:6], y[:6]), baselines=("saliency", "gradcam"), shares=4, **QUIET
    )
    assert len(found.rounds[0].scores) > 40 and not found.failures
    assert len(found.held_out.targets) == 6
    again = compare(model, (x[:6], y[:6]), {"it": found.composite}, ["srg"], shares=4, **QUIET)
    assert float(again.values["it", "srg"].mean()) == pytest.approx(found.interval.mean)
    assert found.code in str(found) and "from lrp_plugin import Composite" in str(found)
    assert not math.isnan(found.interval.low)


def test_candidates_that_fail_are_told_and_bad_arguments_named() -> None:
    model, given = Net(), data(8)[:2]
    good = Candidate("good", Composite([(linear_maps(), rule("zplus"))]), "code")
    bad = Candidate("bad", Composite([(linear_maps(), rule("zplus", gamma=1.0))]), "code")
    found = recommend(model, given, tried=[good, bad], baselines=(), **QUIET)
    assert found.name == "good" and "takes no parameter" in found.failures["bad"] and "bad: ValueError" in str(found)
    with pytest.raises(ValueError, match="every candidate failed"):
        recommend(model, given, tried=[bad], **QUIET)
    for change, message in (
        ({"held_out": 1.0}, "between 0 and 1"), ({"tried": []}, "no candidate"), ({"metric": "mask_share"}, "needs masks"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            recommend(model, given, **{**QUIET, **change})
