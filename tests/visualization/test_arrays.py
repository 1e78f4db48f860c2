"""What is given becomes what is drawn: signs, sizes, ranges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from lrp_plugin.visualization import display_image, region_mask, relevance_map


def test_channels_are_summed_with_their_sign():
    relevance = torch.stack([torch.full((2, 3), 2.0), torch.full((2, 3), -3.0), torch.zeros(2, 3)])
    assert (relevance_map(relevance) == -1.0).all()


def test_maps_are_resized_bilinearly_to_the_image():
    small = torch.randn(1, 7, 7)
    expected = F.interpolate(small[None].double(), size=(14, 21), mode="bilinear")[0, 0].numpy()
    assert np.allclose(relevance_map(small, (14, 21)), expected)
    assert relevance_map(small, (14, 21)).shape == (14, 21)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_precision_and_layout_is_read(dtype):
    values = torch.tensor([[0.5, -0.25], [0.0, 1.0]], dtype=dtype, requires_grad=True)
    for given in (values, values[None], values[None, None]):
        assert relevance_map(given).tolist() == [[0.5, -0.25], [0.0, 1.0]]


def test_channels_last_arrays_are_recognised():
    picture = np.random.default_rng(0).random((5, 6, 3))
    assert np.array_equal(display_image(picture), picture)
    assert np.array_equal(display_image(np.moveaxis(picture, 2, 0)), picture)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_maps_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match="1 pixels that are NaN or infinite"):
        relevance_map(torch.tensor([[bad, 0.0]]))


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (4,), (0, 4, 4), (1, 1, 3, 4, 4)])
def test_maps_of_other_shapes_are_named(shape):
    with pytest.raises(ValueError, match=r"relevance (has shape|is Tensor)"):
        relevance_map(torch.zeros(shape))


def test_a_batch_is_pointed_to_plot_batch():
    with pytest.raises(ValueError, match="plot_batch"):
        display_image(torch.zeros(2, 1, 4, 4))


def test_images_with_a_strange_number_of_channels_are_named():
    with pytest.raises(ValueError, match=r"image has shape \(2, 4, 5\)"):
        display_image(torch.zeros(2, 4, 5))


def test_normalised_images_are_denormalised():
    image = torch.rand(3, 4, 5, dtype=torch.float64)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    normalised = (image - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert np.allclose(display_image(normalised, mean, std), image.permute(1, 2, 0))
    grey = torch.rand(1, 4, 5, dtype=torch.float64)
    assert np.allclose(display_image((grey - 0.5) / 0.2, 0.5, 0.2), grey[0])


def test_mean_of_another_length_is_named():
    with pytest.raises(ValueError, match="mean has 2 values for 3 channels"):
        display_image(torch.zeros(3, 4, 5), [0.1, 0.2])


def test_other_ranges_are_windowed_and_bytes_divided():
    raw = torch.tensor([[-1000.0, 0.0], [1000.0, 3000.0]])
    assert display_image(raw).tolist() == [[0.0, 0.25], [0.5, 1.0]]
    assert display_image(np.array([[0, 51], [102, 255]], np.uint8)).tolist() == [[0.0, 0.2], [0.4, 1.0]]
    dark = torch.full((3, 3), 0.2, dtype=torch.float64)
    assert (display_image(dark) == 0.2).all(), "an image within [0, 1] keeps its exposure"
    assert (display_image(torch.full((3, 3), 7.0)) == 0).all(), "a constant image has no range to divide by"


def test_equal_channels_are_grey():
    assert display_image(torch.rand(1, 4, 5).expand(3, 4, 5)).shape == (4, 5)
    assert display_image(torch.rand(3, 4, 5)).shape == (4, 5, 3)


def test_masks_are_resized_by_nearest_neighbour():
    mask = torch.zeros(1, 4, 4)
    mask[0, :2, 2:] = 1
    assert np.array_equal(region_mask(mask, (4, 4)), mask[0].numpy() > 0)
    for size in [(8, 8), (2, 2), (7, 5)]:
        expected = F.interpolate(mask[None], size=size, mode="nearest-exact")[0, 0].numpy() > 0
        assert np.array_equal(region_mask(mask, size), expected)
