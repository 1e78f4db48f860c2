"""The figures: what is in them, where they are drawn, and that nothing outside them changes."""

from __future__ import annotations

import io
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from lrp_plugin.visualization import (
    RELEVANCE,
    RELEVANCE_ON_IMAGE,
    Look,
    draw_mask_contour,
    plot_batch,
    plot_comparison,
    plot_distribution,
    plot_heatmap,
    plot_overlay,
    plot_top_regions,
    top_regions,
)

IMAGE = torch.rand(1, 20, 24, generator=torch.Generator().manual_seed(0))
SIGNED = torch.randn(1, 20, 24, generator=torch.Generator().manual_seed(1))
MASK = torch.zeros(20, 24)
MASK[5:12, 0:9] = 1

PLOTS = {
    "heatmap": lambda **kw: plot_heatmap(SIGNED, **kw),
    "overlay": lambda **kw: plot_overlay(IMAGE, SIGNED, **kw),
    "comparison": lambda **kw: plot_comparison(IMAGE, {"a": SIGNED, "b": SIGNED.abs()}, **kw),
    "batch": lambda **kw: plot_batch(IMAGE[None].repeat(3, 1, 1, 1), SIGNED[None].repeat(3, 1, 1, 1), **kw),
    "distribution": lambda **kw: plot_distribution(SIGNED, **kw),
    "distributions": lambda **kw: plot_distribution({"a": SIGNED, "b": SIGNED**3}, **kw),
    "regions": lambda **kw: plot_top_regions(IMAGE, SIGNED, **kw),
}
MAPS = ["heatmap", "overlay", "comparison", "batch", "regions"]
parametrize_plots = pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)


def pixels(figure: Figure) -> np.ndarray:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return np.asarray(Image.open(buffer).convert("RGB"))


def panels(figure: Figure) -> list[Axes]:
    return [ax for ax in figure.get_axes() if ax.images]


@parametrize_plots
def test_a_figure_comes_back_titled_and_drawable(plot):
    figure = plot(title="A title")
    assert isinstance(figure, Figure)
    texts = [ax.get_title() for ax in figure.get_axes()] + [figure.get_suptitle()]
    assert "A title" in texts
    assert len(np.unique(pixels(figure).reshape(-1, 3), axis=0)) > 10


@parametrize_plots
def test_a_given_ax_is_drawn_into_and_its_neighbour_left_alone(plot):
    figure = Figure(figsize=(8, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    right.plot([0, 1], [0, 1])
    assert plot(ax=left) is figure
    image = pixels(figure)
    assert len(np.unique(image[:, : image.shape[1] // 3].reshape(-1, 3), axis=0)) > 10
    assert len(right.lines) == 1 and not right.images


@parametrize_plots
def test_it_is_saved_at_300_dpi_and_readable_by_others(plot, tmp_path):
    path = tmp_path / "new folder" / "figure.png"
    plot(save_path=path)
    with Image.open(path) as image:
        assert image.info["dpi"][0] == pytest.approx(300, abs=1)
        assert image.width <= 7.6 * 300
    assert [entry.name for entry in path.parent.iterdir()] == ["figure.png"]


@parametrize_plots
def test_global_settings_are_left_alone(plot):
    before = dict(matplotlib.rcParams)
    plot()
    assert dict(matplotlib.rcParams) == before


def test_no_plot_uses_pyplot_or_needs_a_display():
    code = (
        "import sys, torch, lrp_plugin.visualization as v\n"
        "x = torch.rand(8, 8)\n"
        "v.plot_overlay(x, x); v.plot_comparison(x, {'a': x}); v.plot_distribution(x)\n"
        "import matplotlib.pyplot as plt  # captum imports it; no figure of ours is put in its list\n"
        "sys.exit(len(plt.get_fignums()))"
    )
    environment = {
        "PATH": "/usr/bin",
        "PYTHONPATH": ":".join(sys.path),
        "MPLBACKEND": "TkAgg",
        "HOME": "/tmp",
    }
    assert subprocess.run([sys.executable, "-c", code], env=environment, timeout=120).returncode == 0


@pytest.mark.parametrize("cmap", [None, "seismic", "bwr", "RdBu_r"])
def test_zero_is_the_exact_middle_and_white(cmap):
    for over_image in (True, False):
        colours = Look(cmap=cmap).colours(over_image)
        scale = Look(cmap=cmap).scales([np.array([[-1.0, 3.0]])])[0]
        assert colours.N % 2 == 1
        middle = colours(scale.norm(0.0))
        # RdBu_r's own middle is a light grey; the package's maps and the others are white there.
        assert middle == (
            (1.0, 1.0, 1.0, 1.0) if cmap != "RdBu_r" else pytest.approx((0.9690, 0.9686, 0.9690, 1), abs=1e-3)
        )


def test_zero_is_white_in_the_picture():
    relevance = torch.zeros(10, 10)
    relevance[0, 0], relevance[9, 9] = 2.0, -1.0
    (panel,) = panels(plot_heatmap(relevance, percentile=100))
    drawn = panel.images[0].to_rgba(panel.images[0].get_array())
    assert (drawn[4:6, 4:6] == 1.0).all()
    assert panel.images[0].get_clim() == (-2.0, 2.0)
    red, blue = drawn[0, 0], drawn[9, 9]
    assert red[0] > red[2] and blue[2] > blue[0]


def test_an_overlay_leaves_the_image_where_relevance_is_zero_and_covers_where_it_is_great():
    relevance = torch.zeros(10, 10)
    relevance[0, 0], relevance[0, 1] = 4.0, -2.0
    (panel,) = panels(plot_overlay(torch.rand(10, 10), relevance, percentile=100, alpha=0.8))
    layer = panel.images[1].get_array()
    assert layer[5, 5, 3] == 0
    assert layer[0, 0, 3] == pytest.approx(0.8) and layer[0, 1, 3] == pytest.approx(0.4)
    assert layer[0, 0, 0] > layer[0, 0, 2] and layer[0, 1, 2] > layer[0, 1, 0]
    (flat,) = panels(plot_overlay(torch.rand(10, 10), relevance, fade=False, alpha=0.5))
    assert (flat.images[1].get_array()[..., 3] == 0.5).all()
    assert flat.images[1].get_array()[5, 5, :3].tolist() == [1, 1, 1]


def test_an_overlay_resizes_the_map_and_undoes_the_normalisation():
    image = torch.rand(3, 32, 32)
    figure = plot_overlay((image - 0.5) / 0.25, torch.randn(3, 7, 7), mean=0.5, std=[0.25] * 3)
    (panel,) = panels(figure)
    assert panel.images[1].get_array().shape == (32, 32, 4)
    assert np.allclose(panel.images[0].get_array(), image.permute(1, 2, 0), atol=1e-6)


def bar_of(figure: Figure) -> Axes:
    panel = next(ax for ax in figure.get_axes() if ax.child_axes)
    return panel.child_axes[0]


def test_colour_bar_has_the_unit_its_power_of_ten_and_pointed_ends_where_it_clips():
    figure = plot_heatmap(SIGNED * 1e-5, unit="logit", percentile=90)
    assert bar_of(figure).get_ylabel() == r"relevance ($10^{-5}$ logit)"
    figure.canvas.draw()
    assert max(float(t.get_text().replace("\u2212", "-")) for t in bar_of(figure).get_yticklabels()) < 10
    for given, one in (
        ({}, "above 99.5 % of pixels"),
        ({"percentile": 100}, "the greatest"),
        ({"limit": 0.5}, "0.5 logit"),
    ):
        figure = plot_heatmap(SIGNED, normalize=True, **given)  # type: ignore[arg-type]
        assert bar_of(figure).get_ylabel() == f"against ←   → for\n1: {one}"
    sparse = np.zeros((40, 40))
    sparse[0, 0] = 2.0
    assert bar_of(plot_heatmap(sparse, normalize=True)).get_ylabel().endswith("1: the greatest")
    scale = Look(percentile=90).scales([np.asarray(SIGNED[0])])[0]
    assert scale.clipped and not Look(percentile=100).scales([np.asarray(SIGNED[0])])[0].clipped


def test_colour_bar_of_a_map_without_negative_values_starts_at_zero():
    assert bar_of(plot_heatmap(SIGNED.abs())).get_ylim()[0] == 0
    low, high = bar_of(plot_heatmap(SIGNED)).get_ylim()
    assert low == -high


def test_an_all_zero_map_is_drawn_white():
    (panel,) = panels(plot_heatmap(torch.zeros(6, 6)))
    assert (panel.images[0].to_rgba(panel.images[0].get_array()) == 1).all()


def test_a_sparse_map_is_scaled_by_its_maximum():
    relevance = torch.zeros(100, 100)
    relevance[3, 3] = 5.0
    (panel,) = panels(plot_heatmap(relevance))
    assert panel.images[0].get_clim() == (-5.0, 5.0)


def test_comparison_shows_totals_of_the_maps_as_they_came():
    figure = plot_comparison(IMAGE, {"LRP": torch.full((5, 6), 0.1), "gradient": SIGNED}, logit=4.0, totals=["LRP"])
    titles = [ax.get_title() for ax in panels(figure)]
    assert titles == ["image\nlogit 4", "LRP\n75 % of the logit", "gradient\n"]


def test_comparison_scales_each_map_alone_or_all_together():
    maps = {"small": SIGNED, "large": SIGNED * 10}
    own = [ax.images[0].get_clim()[1] for ax in panels(plot_comparison(IMAGE, maps, overlay=False))[1:]]
    shared = [
        ax.images[0].get_clim()[1] for ax in panels(plot_comparison(IMAGE, maps, overlay=False, normalize=False))[1:]
    ]
    assert own[1] == pytest.approx(10 * own[0])
    assert shared[0] == shared[1] > own[0]


def test_comparison_wraps_and_leaves_no_empty_frames():
    figure = plot_comparison(IMAGE, {str(i): SIGNED for i in range(4)}, columns=3)
    assert len(panels(figure)) == 5
    assert all(not ax.axison for ax in figure.get_axes() if not ax.images and not ax.get_ylabel())


def test_batch_puts_image_i_above_map_i():
    images, maps = torch.rand(5, 1, 8, 8), torch.randn(5, 1, 4, 4)
    figure = plot_batch(images, maps, titles=list("abcde"), columns=3, masks=torch.ones(5, 8, 8))
    figure.canvas.draw()
    shown = panels(figure)
    assert len(shown) == 10
    above = {ax.get_title(): ax for ax in shown if ax.get_title()}
    assert sorted(above) == list("abcde")
    for index, name in enumerate("abcde"):
        assert np.allclose(above[name].images[0].get_array(), images[index, 0])
        box = above[name].get_position()
        under = [ax for ax in shown if abs(ax.get_position().x0 - box.x0) < 0.01 and ax.get_position().y1 < box.y0]
        nearest = max(under, key=lambda ax: ax.get_position().y1)
        assert np.allclose(nearest.images[0].get_array()[0, 0], maps[index, 0, 0, 0], atol=1e-6)


def test_batch_shares_one_scale():
    maps = torch.stack([SIGNED, SIGNED * 5])
    limits = {
        ax.images[0].get_clim()
        for ax in panels(plot_batch(IMAGE[None].repeat(2, 1, 1, 1), maps))
        if len(ax.images) == 1
    }
    assert (0.0, 1.0) in limits and len(limits) == 2


def test_the_outline_follows_the_mask_and_is_closed_at_the_border():
    figure = plot_heatmap(SIGNED, mask=MASK)
    (panel,) = panels(figure)
    (contour,) = [c for c in panel.collections if hasattr(c, "levels")]
    vertices = np.concatenate([path.vertices for path in contour.get_paths()])
    # The line runs half a pixel outside the outermost pixel centres of rows 5 to 11, columns 0 to 8.
    assert vertices.min(0).tolist() == [-0.5, 4.5]
    assert vertices.max(0).tolist() == [8.5, 11.5]
    assert panel.get_xlim() == (-0.5, 23.5)


def test_an_empty_outline_draws_nothing_and_warns_of_nothing(recwarn):
    ax = Figure().add_subplot()
    draw_mask_contour(ax, torch.zeros(4, 4), (4, 4))
    assert not ax.collections and not recwarn


def slow_top(values: np.ndarray, k: int, size: int) -> list[tuple[int, int, float]]:
    taken, found = np.zeros_like(values, bool), []
    for _ in range(k):
        best = None
        for row in range(values.shape[0] - size + 1):
            for column in range(values.shape[1] - size + 1):
                window = (slice(row, row + size), slice(column, column + size))
                if not taken[window].any() and (best is None or values[window].sum() > best[2]):
                    best = (row, column, values[window].sum())
        if best is None or best[2] <= 0:
            break
        taken[best[0] : best[0] + size, best[1] : best[1] + size] = True
        found.append(best)
    return found


@pytest.mark.parametrize(("k", "size"), [(1, 1), (4, 3), (50, 5), (3, 12)])
def test_top_regions_match_a_slow_search(k, size):
    values = np.random.default_rng(k).normal(size=(14, 17))
    found = top_regions(values, k, size=size)
    expected = slow_top(values, k, size)
    assert [(r.row, r.column) for r in found] == [(row, column) for row, column, _ in expected]
    assert [r.relevance for r in found] == pytest.approx([total for _, _, total in expected])
    assert found[0].share == pytest.approx(expected[0][2] / values.clip(0).sum())


def test_top_regions_of_nothing_positive_are_none():
    assert top_regions(torch.zeros(8, 8), 3, size=2) == []
    assert top_regions(-torch.rand(8, 8), 3, size=2) == []
    assert plot_top_regions(torch.rand(8, 8), torch.zeros(8, 8)).get_axes()[0].texts[0].get_text() == "none positive"


def test_distribution_counts_every_pixel_in_symmetric_bins():
    ax = plot_distribution(SIGNED, bins=21).get_axes()[0]
    assert sum(bar.get_height() for bar in ax.patches) == SIGNED.numel()
    assert ax.patches[0].get_x() + ax.patches[-1].get_x() + ax.patches[-1].get_width() == pytest.approx(0, abs=1e-6)
    labels = [line.get_label() for line in ax.lines]
    assert labels[0].startswith("mean") and labels[1].startswith("median")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: plot_overlay(IMAGE, SIGNED, alpha=30), ValueError, "alpha is 30"),
        (lambda: plot_overlay(IMAGE, SIGNED, aplha=0.3), TypeError, "unknown option aplha"),
        (lambda: plot_heatmap(SIGNED, percentile=0), ValueError, "percentile is 0"),
        (lambda: plot_heatmap(SIGNED, limit=-1.0), ValueError, "limit is -1.0"),
        (lambda: plot_heatmap(SIGNED, save_path="figure.jpx"), ValueError, "suffix must be one of"),
        (lambda: plot_comparison(IMAGE, {}), ValueError, "relevances is empty"),
        (lambda: plot_distribution({}), ValueError, "relevance is empty"),
        (
            lambda: plot_batch(torch.rand(2, 1, 8, 8), torch.rand(3, 1, 8, 8)),
            ValueError,
            "relevances has 3 entries",
        ),
        (lambda: plot_batch(IMAGE[None], SIGNED[None], titles=["a", "b"]), ValueError, "titles has 2"),
        (lambda: top_regions(SIGNED, 0), ValueError, "k is 0"),
        (lambda: top_regions(SIGNED, 1, size=30), ValueError, "size 30"),
        (
            lambda: plot_batch(IMAGE[None], SIGNED[None], ax=Figure().add_axes((0, 0, 1, 1))),
            ValueError,
            "free-standing",
        ),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_look_and_its_keywords_agree():
    from lrp_plugin.visualization.look import LookOptions

    assert set(LookOptions.__annotations__) == set(Look.__dataclass_fields__)


def test_both_colour_maps_run_from_blue_to_red():
    for colours in (RELEVANCE, RELEVANCE_ON_IMAGE):
        assert colours(0.0)[2] > colours(0.0)[0] and colours(1.0)[0] > colours(1.0)[2]
