"""What a figure shows on a map small enough to write down: each of these was asked for by a planted fault."""

from __future__ import annotations

import numpy as np
import torch
from test_figures import IMAGE, SIGNED, bar_of, panels
from test_words_and_volumes import drawn

from lrp_plugin.visualization import Look, plot_comparison, plot_heatmap, plot_overlay, plot_volume
from lrp_plugin.visualization.arrays import display_image, pooled, smoothed
from lrp_plugin.visualization.style import number


def test_a_byte_of_255_is_one() -> None:
    assert display_image(np.array([[0, 51], [102, 204]], np.uint8)).tolist() == [[0, 0.2], [0.4, 0.8]]


def test_pooling_is_a_mean_and_a_blur_keeps_a_constant() -> None:
    assert pooled(np.array([[1.0, 3.0], [5.0, 7.0]]), 2).tolist() == [[4, 4], [4, 4]]
    np.testing.assert_allclose(smoothed(np.full((5, 4), 3.0), 1.0), 3.0, rtol=0, atol=1e-12)


def test_the_scale_reaches_the_greatest_magnitude_of_either_sign() -> None:
    assert Look().scales([np.array([[-3.0, 1.0]] * 2)])[0].limit == 3


def test_numbers_are_plain_up_to_a_million() -> None:
    assert [number(value) for value in (1234.4, 0.012345, -2.5, 2e6)] == ["1234", "0.0123", "\u22122.5", "2e+06"]


def test_ticks_leave_the_power_of_ten_to_the_label() -> None:
    figure = plot_heatmap(SIGNED * 1e-5, unit="logit")
    figure.canvas.draw()
    shown = [float(tick.get_text().replace("\u2212", "-")) for tick in bar_of(figure).get_yticklabels()]
    assert 1 <= max(shown) < 10


def test_an_outlined_picture_stands_upright() -> None:
    mask = torch.zeros(IMAGE.shape[-2:])
    mask[:2] = 1
    (panel, *_) = panels(plot_overlay(IMAGE, SIGNED, mask=mask))
    assert panel.get_ylim() == (mask.shape[0] - 0.5, -0.5)


def test_a_method_without_a_sign_shows_no_total() -> None:
    titles = [ax.get_title() for ax in panels(plot_comparison(IMAGE, {"LRP": SIGNED, "saliency": SIGNED.abs()}))]
    assert titles[1].startswith("LRP\n") and titles[1] != "LRP\n" and titles[2] == "saliency\n"


def test_projections_of_a_volume_are_sums() -> None:
    """Twelve ones behind each other are twelve; four of three are as many."""
    relevance = np.zeros((12, 2, 4))
    relevance[:, 0, 0], relevance[0, 1, :] = 1.0, 3.0
    strength = [panel[1][..., 3] for panel in drawn(plot_volume(relevance, relevance))]
    assert strength[3][0, 0] == strength[5].max() == strength[3].max()
