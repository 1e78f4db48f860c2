"""Perturbation curves: known answers on linear models, and laws that hold for every map."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lrp_plugin.evaluation import (
    Scorer,
    bootstrap_mean,
    comprehensiveness,
    deletion,
    greedy_curves,
    infidelity,
    insertion,
    paired_difference,
    perturbation_curves,
    random_curves,
    sensitivity,
    srg,
    sufficiency,
)
from lrp_plugin.evaluation import replacement as fills
from lrp_plugin.evaluation.regions import columns, patches, pixels, superpixels, time_steps, tokens
from lrp_plugin.evaluation.road import impute

seeds = st.integers(0, 10_000)


class Weighted(nn.Module):
    """A linear model: the inputs weighted and added up; (N, 1)."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape, dtype=torch.float64))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weight).flatten(1).sum(1, keepdim=True)


class Small(nn.Module):
    """A small network with three classes, for pictures of two channels."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
        )
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def pictures(seed: int, count: int = 3, side: int = 6) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    torch.manual_seed(seed)
    x, maps = (torch.randn(count, 2, side, side, dtype=torch.float64) for _ in range(2))
    return Small(), x, maps, torch.arange(count) % 3


@given(seeds, st.integers(2, 9))
def test_on_a_linear_model_the_exact_order_leads_and_the_opposite_trails(seed: int, size: int) -> None:
    """The area between the curves has a closed form; no map beats gradient times input, its negative is its mirror."""
    torch.manual_seed(seed)
    model, x = Weighted(size), torch.randn(4, size, dtype=torch.float64)
    exact = x * model.weight.detach()
    found = {
        name: perturbation_curves(model, x, maps, 0, replacement="zero", shares=size, output="logit")
        for name, maps in (("exact", exact), ("opposite", -exact), ("random", torch.randn_like(exact)))
    }
    sums = exact.sort(1, descending=True).values.cumsum(1)
    morf = exact.sum(1, keepdim=True) - torch.cat([torch.zeros(4, 1).double(), sums], 1)
    torch.testing.assert_close(found["exact"].morf, morf, rtol=0, atol=1e-12)
    torch.testing.assert_close(found["exact"].srg, -found["opposite"].srg, rtol=0, atol=1e-12)
    assert (found["random"].srg <= found["exact"].srg + 1e-12).all()
    assert (found["random"].srg >= found["opposite"].srg - 1e-12).all()


def test_random_orders_are_the_floor_and_greedy_is_the_ceiling() -> None:
    """On a linear model greedy is the exact order, to 1e-12; random orders average to no gain."""
    torch.manual_seed(0)
    model, x = Weighted(8), torch.randn(5, 8, dtype=torch.float64)
    settings = {"replacement": "zero", "shares": 8, "output": "logit"}
    exact = perturbation_curves(model, x, x * model.weight.detach(), 0, **settings)
    ceiling = greedy_curves(model, x, 0, batch_size=7, **settings)
    torch.testing.assert_close(ceiling.morf, exact.morf, rtol=0, atol=1e-12)
    torch.testing.assert_close(ceiling.lerf, exact.lerf, rtol=0, atol=1e-12)
    floor = random_curves(model, x, 0, draws=400, **settings)
    assert floor.srg.abs().max() < 0.2 * exact.srg.min()  # 400 draws: a twentieth of one draw's spread
    straight = exact.morf[:, :1] * (1 - floor.shares)  # what random removal takes of a linear model, in expectation
    assert (floor.morf - straight).abs().max() < 0.2 * exact.srg.max()


@given(seeds, st.floats(0.1, 50), st.sampled_from(["zero", "mean", "noise", "blur", "road"]))
def test_scaling_permuting_and_batching_change_nothing(seed: int, factor: float, fill: str) -> None:
    model, x, maps, target = pictures(seed)
    settings = {"regions": patches(2), "replacement": fill, "shares": 4}
    base = perturbation_curves(model, x, maps, target, **settings)
    again = perturbation_curves(model, x, factor * maps, target, **settings)
    # Powers of two scale exactly; other factors may turn round two regions that tie up to rounding, so none do here.
    torch.testing.assert_close(again.morf, base.morf)
    order = torch.tensor([2, 0, 1])
    turned = perturbation_curves(model, x[order], maps[order], target[order], batch_size=2, **settings)
    # In float64 a batch of another size may round otherwise; ROAD's solver stops at a relative 1e-4.
    torch.testing.assert_close(turned.lerf, base.lerf[order], rtol=1e-3 if fill == "road" else 1e-9, atol=1e-9)
    torch.testing.assert_close(turned.srg, base.srg[order], rtol=0, atol=1e-3 if fill == "road" else 1e-9)


@given(seeds)
def test_points_and_areas_of_one_pair_of_curves(seed: int) -> None:
    """Probabilities bound the areas; MoRF of a map is LeRF of its negative; the ends are the input and the fill."""
    model, x, maps, target = pictures(seed)
    curves = perturbation_curves(model, x, maps, target, regions=pixels())
    for area in (curves.deletion, curves.insertion):
        assert ((area >= 0) & (area <= 1)).all()
    assert (curves.srg.abs() <= 1).all()
    mirrored = perturbation_curves(model, x, -maps, target, regions=pixels())
    torch.testing.assert_close(mirrored.morf, curves.lerf)
    score = Scorer(model)
    torch.testing.assert_close(curves.morf[:, 0], score(x, target))
    emptied = x.mean((2, 3), keepdim=True).expand_as(x)
    torch.testing.assert_close(curves.morf[:, -1], score(emptied, target))
    torch.testing.assert_close(curves.lerf[:, -1], curves.morf[:, -1])


def test_comprehensiveness_and_sufficiency_by_hand() -> None:
    """Ten columns, shares of 10 % and 30 %: DeYoung et al.'s two differences written out."""
    torch.manual_seed(1)
    model, x = Weighted(10), torch.randn(3, 10, dtype=torch.float64)
    maps = torch.randn_like(x)
    settings = {"shares": (0.1, 0.3), "regions": columns(), "replacement": "zero", "output": "logit"}
    lost, short = (torch.zeros(3, dtype=torch.float64) for _ in range(2))
    for n in range(3):
        best = maps[n].argsort(descending=True)
        for count in (1, 3):
            without, alone = x[n].clone(), torch.zeros_like(x[n])
            without[best[:count]] = 0
            alone[best[:count]] = x[n, best[:count]]
            lost[n] += (model(x[n : n + 1]) - model(without[None])).item() / 2
            short[n] += (model(x[n : n + 1]) - model(alone[None])).item() / 2
    torch.testing.assert_close(comprehensiveness(model, x, maps, 0, **settings), lost)
    torch.testing.assert_close(sufficiency(model, x, maps, 0, **settings), short)


def test_insertion_and_deletion_are_the_curves_areas_with_their_papers_fills() -> None:
    model, x, maps, target = pictures(3)
    zeros = perturbation_curves(model, x, maps, target, replacement="zero")
    blurred = perturbation_curves(model, x, maps, target, replacement="blur")
    assert torch.equal(deletion(model, x, maps, target), zeros.deletion)
    assert torch.equal(insertion(model, x, maps, target), blurred.insertion)
    assert torch.equal(srg(model, x, maps, target, replacement="zero"), zeros.srg)


def test_equal_regions_fall_in_one_random_order() -> None:
    """A constant map is a random order, not the order of reading: the seed moves it, the example does not."""
    model, x, maps, target = pictures(4, count=2, side=8)
    flat = torch.ones_like(maps)
    one, other = (perturbation_curves(model, x, flat, target, regions=pixels(), seed=seed) for seed in (0, 1))
    assert not torch.equal(one.morf, other.morf)
    same = perturbation_curves(model, x[[0, 0]], flat, target[[0, 0]], regions=pixels())
    assert torch.equal(same.morf[0], same.morf[1])


@pytest.mark.parametrize(
    ("regions", "shape", "count"),
    [(pixels(), (2, 3, 4, 5), 20), (patches(2), (2, 3, 4, 5), 6), (pixels(), (2, 3, 7), 7), (patches(2), (1, 1, 2, 3, 4), 4),
     (tokens(), (2, 6), 6), (time_steps(2), (2, 5, 3), 3), (columns(), (2, 4), 4)],
)  # fmt: skip
def test_regions_divide_every_kind_of_input(regions: object, shape: tuple[int, ...], count: int) -> None:
    x = torch.randn(shape)
    labels = regions(x)
    assert labels.unique().tolist() == list(range(count))
    assert labels.expand(shape).shape == x.shape


def test_superpixels_follow_edges() -> None:
    pytest.importorskip("skimage", reason="superpixels need scikit-image")
    x = torch.zeros(2, 1, 16, 16)
    x[:, :, :, 6:] = 1
    labels = superpixels(4)(x)[0, 0]
    assert labels.shape == (16, 16)
    left, right = (set(part.unique().tolist()) for part in (labels[:, :6], labels[:, 6:]))
    assert left and right and not left & right, "a superpixel lies on both sides of the edge"
    curves = perturbation_curves(Weighted(1, 16, 16), x.double(), x.double(), 0, regions=superpixels(4), shares=2)
    assert curves.morf.shape == (2, 3)


def test_tokens_and_arguments_go_with_their_examples() -> None:
    """Ids replaced by a mask token, an attention mask for each example."""

    class Reader(nn.Module):
        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            values = (ids.double() * mask).sum(1)
            return torch.stack([values, -values], 1)

    ids, mask = torch.tensor([[5, 1, 3], [2, 9, 4]]), torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]).double()
    scorer = Scorer(Reader().eval(), output="logit", arguments=(mask,), batch_size=2)
    curves = perturbation_curves(
        scorer, ids, ids.double(), torch.tensor([0, 1]), regions=tokens(), replacement=0, shares=3
    )
    torch.testing.assert_close(curves.morf, torch.tensor([[6.0, 1, 1, 0], [-15, -6, -2, 0]]).double())
    with pytest.raises(ValueError, match="value"):
        perturbation_curves(scorer, ids, ids.double(), 0, regions=tokens())


@given(seeds, st.floats(0.1, 0.95))
def test_imputation_solves_its_linear_system(seed: int, share: float) -> None:
    """Each removed pixel is its neighbours' weighted mean; known ones stay; a picture without a known pixel is its mean."""
    torch.manual_seed(seed)
    x, removed = torch.randn(2, 2, 6, 5, dtype=torch.float64), torch.rand(2, 1, 6, 5) < share
    removed[1] = True
    found = impute(x, removed, tolerance=1e-12)
    weight = torch.tensor([[1.0, 2, 1], [2, 0, 2], [1, 2, 1]]).double() / 12
    for place in removed[0, 0].nonzero().tolist() if not removed[0].all() else []:
        total = value = 0.0
        for row in range(3):
            for column in range(3):
                i, j = place[0] + row - 1, place[1] + column - 1
                if 0 <= i < 6 and 0 <= j < 5:
                    total += weight[row, column]
                    value = value + weight[row, column] * found[0, :, i, j]
        torch.testing.assert_close(found[0, :, place[0], place[1]], value / total, rtol=1e-7, atol=1e-7)
    kept = ~removed.expand_as(x)
    assert torch.equal(found[kept], x[kept])
    torch.testing.assert_close(found[1], x[1].mean((1, 2), keepdim=True).expand(2, 6, 5))


def test_imputation_neither_knows_the_batch_nor_overflows_in_half() -> None:
    torch.manual_seed(0)
    x, removed = 300 * torch.rand(5, 2, 40, 40), torch.rand(5, 1, 40, 40) < 0.5
    whole, alone = impute(x, removed), torch.cat([impute(x[n : n + 1], removed[n : n + 1]) for n in range(5)])
    torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-2)
    half = impute(x.half(), removed)
    assert half.dtype == torch.float16 and len(impute(x[:0], removed[:0])) == 0
    torch.testing.assert_close(half.float(), whole, rtol=2e-3, atol=0.3)


def test_road_shows_less_of_the_mask_s_shape_than_zero() -> None:
    """A model that sees nothing but dark places: zero-filling a bright smooth picture feeds it the mask, ROAD does not."""

    class Dark(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x < 0.2).double().flatten(1).sum(1, keepdim=True)

    torch.manual_seed(0)
    slope = torch.linspace(0.6, 0.9, 16, dtype=torch.float64)
    x = (slope[:, None] * torch.ones(16, dtype=torch.float64))[None, None].repeat(3, 1, 1, 1)
    maps = torch.rand(3, 1, 16, 16, dtype=torch.float64)
    leaks = {
        fill: perturbation_curves(
            Dark().eval(), x, maps, 0, regions=patches(2), replacement=fill, shares=[0.0, 0.25, 0.5]
        )
        for fill in ("zero", "road")
    }
    assert leaks["zero"].morf[:, -1].min() == 128
    assert leaks["road"].morf.max() == 0


@pytest.mark.parametrize("fill", ["zero", "mean", "blur", "noise", "road", 0.5, "own"])
def test_replacements_touch_what_is_removed_alone(fill: object) -> None:
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    given = fills.function(lambda inputs, removed: torch.where(removed, -1.0, inputs)) if fill == "own" else fill
    removed = torch.rand(4, 1, 8, 8) < 0.4
    rows = torch.tensor([1, 0, 0, 1])
    before = x.clone()
    found = fills.replacement(given)(x, 0)(rows, removed.expand(4, 3, 8, 8))
    assert torch.equal(x, before)
    kept = ~removed.expand_as(found)
    assert torch.equal(found[kept], x[rows][kept])
    assert not torch.equal(found, x[rows])


def test_infidelity_of_exact_sums_is_zero_and_of_others_is_not() -> None:
    torch.manual_seed(2)
    model, x = Weighted(6), torch.randn(4, 6, dtype=torch.float64)
    exact = x * model.weight.detach()
    settings = {"replacement": "zero", "regions": columns(), "batch_size": 30}
    assert infidelity(model, x, exact, 0, normalize=False, **settings).max() < 1e-20
    assert infidelity(model, x, 7 * exact, 0, **settings).abs().max() < 1e-12
    assert infidelity(model, x, exact.flip(1), 0, **settings).min() > 1e-6
    order = torch.tensor([3, 1, 0, 2])
    torch.testing.assert_close(
        infidelity(model, x[order], exact.flip(1)[order], 0, **settings),
        infidelity(model, x, exact.flip(1), 0, **settings)[order],
    )


def test_sensitivity_of_a_constant_map_is_zero_and_of_the_input_known() -> None:
    x = torch.randn(5, 2, 4, 4, dtype=torch.float64)
    assert sensitivity(lambda inputs, target: torch.ones_like(inputs), x, 0).max() == 0
    small, large = (sensitivity(lambda inputs, target: inputs, x, 0, radius=radius) for radius in (0.01, 0.02))
    torch.testing.assert_close(2 * small, large)
    torch.testing.assert_close(sensitivity(lambda i, t: i, x, 0, batch_size=11), large)


def test_paired_differences_see_what_overlapping_intervals_hide() -> None:
    generator = torch.Generator().manual_seed(0)
    hard = torch.randn(40, generator=generator).double()
    better = hard + 0.2 + 0.05 * torch.randn(40, generator=generator)
    one, other = bootstrap_mean(better), bootstrap_mean(hard)
    assert one.low < other.high, "the intervals overlap"
    assert paired_difference(better, hard).low > 0.15
    torch.testing.assert_close(paired_difference(better, hard).mean, -paired_difference(hard, better).mean)
    partly = hard.clone()
    partly[0] = math.nan
    assert paired_difference(better, partly).missing == 1
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_difference(better, hard[:3])


@pytest.mark.parametrize(
    ("change", "message"),
    [({"relevance": torch.full((3, 2, 6, 6), torch.nan)}, "3 of 3 examples holds NaN"),
     ({"relevance": torch.ones(3, 2, 5, 6)}, "does not fit"), ({"replacement": "black"}, "unknown replacement"),
     ({"output": "score"}, "legal are auto"), ({"batch_size": 0}, "positive integer"), ({"shares": 0}, "shares=0"),
     ({"shares": [0.5, 0.1]}, "ascending"), ({"regions": torch.zeros(2, 2)}, "do not fit inputs")],
)  # fmt: skip
def test_bad_input_is_named(change: dict[str, object], message: str) -> None:
    model, x, maps, target = pictures(0)
    settings = {"relevance": maps, **change}
    with pytest.raises(ValueError, match=message):
        perturbation_curves(model, x, settings.pop("relevance"), target, **settings)


def test_the_model_is_left_alone_and_a_prediction_that_never_moves_is_seen() -> None:
    model, x, maps, target = pictures(5)
    model.train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.warns(UserWarning, match="training mode"):
        perturbation_curves(model, x, maps, target)
    assert model.training and all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    constant = perturbation_curves(lambda inputs: torch.ones(len(inputs), 3), x, maps, target)
    assert constant.unmoved.all() and constant.srg.abs().max() == 0
    assert not perturbation_curves(model.eval(), x, maps, target).unmoved.any()


def test_a_target_function_returns_numbers_of_any_kind() -> None:
    model, x, _, _ = pictures(0)
    wanted = model(x)[:, 0].detach()
    for function in (lambda o: o[:, 0], lambda o: o[:, 0].numpy(), lambda o: o[:, 0].tolist()):
        torch.testing.assert_close(Scorer(model)(x, function), wanted, check_dtype=False)
    for function in (lambda o: None, lambda o: o, len):
        with pytest.raises(
            ValueError, match=r"the target function returned .* for 3 inputs; legal is a number for each"
        ):
            Scorer(model)(x, function)


def test_sensitivity_takes_maps_of_any_shape_that_are_finite() -> None:
    _, x, maps, _ = pictures(0)
    torch.testing.assert_close(
        sensitivity(lambda i, t: i.flatten(1), x, 1, samples=2), sensitivity(lambda i, t: i, x, 1, samples=2)
    )
    for wrong in (None, maps * math.nan):
        with pytest.raises(ValueError, match="explain returned"):
            sensitivity(lambda i, t, wrong=wrong: wrong, x, 1, samples=2)


@pytest.mark.parametrize("fill", [math.nan, math.inf])
def test_a_replacement_that_is_not_finite_is_refused(fill: float) -> None:
    model, x, maps, _ = pictures(0)
    with pytest.raises(ValueError, match="is not finite"):
        perturbation_curves(model, x, maps, 1, replacement=fill)
