from __future__ import annotations

import numpy as np
import pytest

from lrp_plugin.cxr import SyntheticCXR, plot_class_examples, plot_class_histogram, plot_confusion_matrix

pytest.importorskip("matplotlib", reason="plots need the extra `plot`")


def test_histogram_shows_each_classs_count() -> None:
    (ax,) = plot_class_histogram(SyntheticCXR(10)).axes
    assert [bar.get_height() for bar in ax.patches] == [3, 3, 2, 2]
    assert [label.get_text() for label in ax.get_xticklabels()] == list(SyntheticCXR(1).classes)


def test_examples_show_a_picture_of_each_class() -> None:
    dataset = SyntheticCXR(12, size=32)
    figure = plot_class_examples(dataset, seed=1)
    assert [ax.get_title() for ax in figure.axes] == list(dataset.classes)
    for label, ax in enumerate(figure.axes):
        shown = np.asarray(ax.images[0].get_array())
        assert any(np.allclose(shown, dataset[i]["image"][0].numpy()) for i in range(label, 12, 4))


def test_confusion_matrix_has_names_and_counts_for_any_number_of_classes() -> None:
    from matplotlib.figure import Figure

    for k in (2, 5):
        counts = np.arange(k * k).reshape(k, k)
        names = [f"class {i}" for i in range(k)]
        (ax,) = plot_confusion_matrix(counts, names).axes
        assert [t.get_text() for t in ax.texts] == [str(v) for v in range(k * k)]
        assert [t.get_text() for t in ax.get_yticklabels()] == names
    own = Figure()
    assert plot_confusion_matrix(np.eye(2), ["a", "b"], own.subplots()) is own
    with pytest.raises(ValueError, match=r"\(3, 3\) for 2 classes"):
        plot_confusion_matrix(np.eye(3), ["a", "b"])
