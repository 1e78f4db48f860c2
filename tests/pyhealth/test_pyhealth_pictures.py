"""`BasicGradientSaliencyMaps`, `SaliencyVisualizer` and `visualize_attribution`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from lrp_plugin.pyhealth import BasicGradientSaliencyMaps, SaliencyVisualizer, visualize_attribution
from lrp_plugin.visualization import plot_comparison


@pytest.fixture(autouse=True)
def _no_figure_left() -> Any:
    yield
    plt.close("all")


class _Keyed(nn.Module):
    """Takes ``scan=`` and, like PyHealth's models, further keywords; returns a dictionary."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """Labels are not among what it needs."""
        assert "finding" not in batch
        return {"logit": self.network(batch["scan"])}


def _slow_saliency(model: nn.Module, images: Tensor, target: int) -> Tensor:
    x = images.clone().requires_grad_()
    model(x)[:, target].sum().backward()
    assert x.grad is not None
    return x.grad.abs().amax(1)


def test_saliency_is_the_largest_gradient_over_the_channels(cnn: nn.Module, images: Tensor) -> None:
    expected = _slow_saliency(cnn, images, 2)
    cnn.zero_grad()
    maps = BasicGradientSaliencyMaps(cnn)
    result = maps.attribute(image=images, target_class_idx=2)
    assert list(result) == ["image"]
    assert torch.allclose(result["image"], expected, atol=1e-7)
    assert torch.equal(maps(image=images, target_class_idx=[2, 2, 2])["image"], result["image"])
    highest = cnn(images).argmax(1)
    assert torch.equal(maps(image=images)["image"], maps(image=images, target_class_idx=highest)["image"])


def test_a_saturated_model_has_a_map_and_its_probability_has_none(cnn: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        cnn.fc.bias.copy_(torch.tensor([200.0, 0.0, 0.0, 0.0]))
    assert BasicGradientSaliencyMaps(cnn)(image=images)["image"].max() > 1e-4
    assert BasicGradientSaliencyMaps(cnn, output="probability")(image=images)["image"].max() == 0


def test_custom_keys_reach_the_model_and_labels_are_not_needed(cnn: nn.Module, images: Tensor) -> None:
    maps = BasicGradientSaliencyMaps(_Keyed(cnn).eval(), image_key="scan", label_key="finding")
    plain = BasicGradientSaliencyMaps(cnn)(image=images)["image"]
    assert torch.equal(maps(scan=images)["scan"], plain)
    assert torch.equal(maps(scan=images, finding=torch.zeros(3))["scan"], plain)
    with pytest.raises(ValueError, match="scan=tensor"):
        maps(image=images)


def test_saliency_leaves_the_model_alone_and_works_without_gradients(cnn: nn.Module, images: Tensor) -> None:
    cnn.train()
    with torch.no_grad(), pytest.warns(UserWarning, match="training mode"):
        inside = BasicGradientSaliencyMaps(cnn)(image=images)["image"]
    assert cnn.training
    assert cnn.bn1.training
    assert all(parameter.grad is None for parameter in cnn.parameters())
    assert torch.equal(inside, BasicGradientSaliencyMaps(cnn.eval())(image=images)["image"])


@pytest.mark.parametrize("form", ["dictionary", "tensor", "batches", "samples"])
def test_an_input_batch_is_explained_at_once_and_stored(cnn: nn.Module, images: Tensor, form: str) -> None:
    labels = torch.tensor([0, 1, 2])
    given: Any = {
        "dictionary": {"image": images, "disease": labels},
        "tensor": images,
        "batches": [{"image": images[:2], "disease": labels[:2]}, {"image": images[2:], "disease": labels[2:]}],
        "samples": [{"image": images[i], "disease": labels[i], "patient_id": str(i)} for i in range(3)],
    }[form]
    maps = BasicGradientSaliencyMaps(cnn, input_batch=given)
    stored = maps.get_gradient_saliency_maps()
    assert len(stored) == {"dictionary": 1, "tensor": 1, "batches": 2, "samples": 3}[form]
    together = torch.cat([entry["saliency"] for entry in stored])  # type: ignore[misc]
    assert torch.allclose(together, BasicGradientSaliencyMaps(cnn)(image=images)["image"], atol=1e-7)
    maps.attribute(image=images[:1])
    assert len(stored) == len(maps.Batch_saliency_maps)
    maps.attribute(image=images[:1], save_to_batch=True)
    assert len(maps.Batch_saliency_maps[-1]["saliency"]) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [7, "images", [1, 2]])
def test_another_input_batch_is_refused(cnn: nn.Module, given: object) -> None:
    with pytest.raises(ValueError, match="legal are a dictionary"):
        BasicGradientSaliencyMaps(cnn, input_batch=given)


def test_a_stored_map_is_drawn_with_true_and_predicted_class(cnn: nn.Module, images: Tensor) -> None:
    maps = BasicGradientSaliencyMaps(cnn, {"image": images, "disease": torch.tensor([3, 1, 0])})
    names = dict(enumerate(["COVID", "Opacity", "Normal", "Viral"]))
    figure = maps.visualize_saliency_map(plt, image_index=1, id2label=names)
    predicted = names[int(cnn(images[1:2]).argmax())]
    assert figure.axes[0].get_title() == f"true Opacity, predicted {predicted}"
    with pytest.raises(IndexError, match="image 3 of 3"):
        maps.visualize_saliency_map(plt, image_index=3)


IMAGE = torch.rand(1, 40, 40, generator=torch.Generator().manual_seed(0))
MAP = torch.randn(3, 20, 20, generator=torch.Generator().manual_seed(1))
PLOTS: dict[str, Callable[..., Figure]] = {
    "overlay": lambda v, p, **k: v.plot_saliency_overlay(p, IMAGE, MAP, **k),
    "heatmap": lambda v, p, **k: v.plot_saliency_heatmap(p, MAP, **k),
    "multiple": lambda v, p, **k: v.plot_multiple_attributions(p, IMAGE, {"a": MAP, "b": -MAP}, **k),
    "distribution": lambda v, p, **k: v.plot_attribution_distribution(p, MAP, **k),
    "top_k": lambda v, p, **k: v.plot_top_k_features(p, IMAGE, MAP, **k),
}


@pytest.mark.parametrize("name", PLOTS)
def test_a_figure_comes_back_is_shown_and_saved(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[int] = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(1))
    figure = PLOTS[name](SaliencyVisualizer(), plt, title="Title", save_path=tmp_path / "a.png")
    assert isinstance(figure, Figure)
    assert len(shown) == 1
    assert (tmp_path / "a.png").stat().st_size > 1000
    titles = [ax.get_title() for ax in figure.axes] + [
        figure.get_suptitle(),
        *(f.get_suptitle() for f in figure.subfigs),
    ]
    assert "Title" in titles
    PLOTS[name](SaliencyVisualizer(), plt, show=False)
    assert len(shown) == 1


@pytest.mark.parametrize("name", PLOTS)
def test_a_given_ax_is_drawn_into_and_not_shown(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plt, "show", lambda: pytest.fail("shown"))
    figure, axes = plt.subplots(1, 2)
    assert PLOTS[name](SaliencyVisualizer(), plt, ax=axes[0]) is figure
    figure.canvas.draw()
    assert not axes[1].images
    assert not axes[1].patches


@pytest.mark.parametrize("name", PLOTS)
def test_without_pyplot_nothing_is_registered(name: str) -> None:
    before = plt.get_fignums()
    assert isinstance(PLOTS[name](SaliencyVisualizer(), None), Figure)
    assert plt.get_fignums() == before


@pytest.mark.parametrize("cmap", ["hot", "seismic", None])
def test_zero_is_white_and_signs_are_kept_whatever_the_colour_map(cmap: str | None) -> None:
    values = np.zeros((8, 8))
    values[0, 0], values[7, 7] = 2.0, -2.0
    figure = SaliencyVisualizer(default_cmap=cmap).plot_saliency_heatmap(None, values, percentile=100)
    drawn = figure.axes[0].images[0]
    zero, plus, minus = (drawn.cmap(drawn.norm(value))[:3] for value in (0.0, 2.0, -2.0))
    assert min(zero) > 0.99
    assert plus[0] > plus[2]
    assert minus[2] > minus[0]


def test_hot_colours_a_map_without_negative_values_from_black_to_white() -> None:
    values = np.linspace(0, 1, 64).reshape(8, 8)
    figure = SaliencyVisualizer("hot").plot_saliency_heatmap(None, values, percentile=100)
    drawn = figure.axes[0].images[0]
    for value in (0.25, 0.5, 1.0):
        expected = plt.get_cmap("hot")(value)
        assert drawn.cmap(drawn.norm(value)) == pytest.approx(expected, abs=0.02)


def test_channels_are_summed_with_their_sign_and_resized_to_the_image() -> None:
    opposite = torch.stack([torch.ones(10, 10), -torch.ones(10, 10), torch.zeros(10, 10)])
    figure = SaliencyVisualizer(None).plot_saliency_overlay(None, IMAGE, opposite)
    layer = figure.axes[0].images[1].get_array()
    assert layer.shape == (40, 40, 4)
    assert np.abs(layer[..., 3]).max() == 0  # they cancel: nothing covers the image


def test_figure_size_is_the_size_on_screen() -> None:
    figure = SaliencyVisualizer(figure_size=(12, 6)).plot_saliency_overlay(plt, IMAGE, MAP, show=False)
    assert tuple(figure.get_size_inches() * figure.dpi) == pytest.approx((1200, 600), abs=1)


def test_comparison_takes_names_in_order_and_shows_the_image_first() -> None:
    visualizer = SaliencyVisualizer()
    maps = {"a": MAP, "b": MAP, "c": MAP}
    figure = visualizer.plot_multiple_attributions(None, IMAGE, maps, method_names=["c", "a"], logit=1.0)
    panels = [ax for ax in figure.subfigs[0].axes if ax.images]
    assert [ax.get_title().split("\n")[0] for ax in panels] == ["image", "c", "a"]
    with pytest.raises(ValueError, match="given are a, b, c"):
        visualizer.plot_multiple_attributions(None, IMAGE, maps, method_names=["d"])


@pytest.mark.parametrize(
    ("names", "options"), [("abc", {}), ("abcd", {}), ("abcd", {"columns": 2}), (["saliency"], {})]
)
def test_a_comparison_is_as_large_as_the_packages_own(names: Any, options: dict[str, Any]) -> None:
    """Four methods and the image take two rows of four: on a page for one row they were squeezed."""
    maps = dict.fromkeys(names, MAP)
    figure = SaliencyVisualizer().plot_multiple_attributions(None, IMAGE, maps, title="T", **options)
    own = plot_comparison(IMAGE, maps, title="T", **options)
    assert tuple(figure.get_size_inches()) == pytest.approx(tuple(own.get_size_inches()))


def test_top_k_rings_the_pixels_of_greatest_magnitude() -> None:
    values = np.zeros((40, 40))
    values[3, 5], values[20, 30], values[10, 10] = -4.0, 3.0, 1.0
    figure = SaliencyVisualizer().plot_top_k_features(None, IMAGE, values, k=2)
    rings = figure.axes[0].collections[0]
    assert rings.get_offsets().tolist() == [[5, 3], [30, 20]]
    first, second = rings.get_edgecolors()
    assert first[2] > first[0]
    assert second[0] > second[2]
    with pytest.raises(ValueError, match="legal are 1 to 1600"):
        SaliencyVisualizer().plot_top_k_features(None, IMAGE, values, k=0)


@pytest.mark.parametrize("method", ["overlay", "heatmap", "top_k"])
def test_one_call_draws_each_kind(method: str) -> None:
    figure = visualize_attribution(None, IMAGE, MAP, "T", method)
    assert figure.axes[0].get_title() == "T"
    assert len(figure.axes[0].images) == (1 if method == "heatmap" else 2)
    assert bool(figure.axes[0].collections) == (method == "top_k")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="'top_k'"):
        visualize_attribution(None, IMAGE, MAP, method="bars")
    with pytest.raises(ValueError, match="default_cmap"):
        SaliencyVisualizer("warm")
