"""What a report is made of. Fill these; `write_report` draws the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lrp_plugin.evaluation import Comparison
from lrp_plugin.evaluation.evidence import Localisation, RemovalTest
from lrp_plugin.evidence import Interval
from lrp_plugin.kinds import checked
from lrp_plugin.visualization.arrays import Array, ArrayLike


@dataclass(frozen=True)
class Metric:
    """One line of the metrics table.

    Attributes:
        name: Such as ``"Accuracy"``.
        value: The number; NaN is shown as a dash.
        interval: Its confidence interval, if there is one (`Interval.mean` is not shown).
        percent: Show a value in [0, 1] in percent.
        note: What it means or how it was computed, in a few words.
    """

    name: str
    value: float
    interval: Interval | None = None
    percent: bool = False
    note: str = ""


@dataclass(frozen=True)
class Explanation:
    """One method's map of one example.

    Attributes:
        method: The method's name; the same spelling in every example and in `Localisation`.
        relevance: ``(C, H, W)`` or ``(H, W)``, signed; summed over the channels and resized to the image. Or the URL of
            a transparent PNG made by `layer_png`, which the page links.
        inside: Share of the positive relevance inside the region (`lrp_plugin.evidence.mask_share`), in [0,
            1]; NaN or None where there is none.
        total: Sum of the map, where that means something (LRP: compare with the logit); None otherwise.
    """

    method: str
    relevance: ArrayLike | str
    inside: float | None = None
    total: float | None = None


@dataclass(frozen=True)
class Example:
    """One image with its maps.

    Attributes:
        identifier: What it is called in the data, such as ``"COVID-17"``.
        image: ``(C, H, W)`` or ``(H, W)`` in [0, 1], not normalised. Or the URL of a picture, which the page links and
            loads when it is scrolled to; give `size` then.
        true_class: One of the report's class names; None where nobody knows it.
        predicted_class: One of the report's class names.
        probability: Of the predicted class, in [0, 1].
        explanations: One for each method, all for the class `explained_class`.
        explained_class: The class that the maps explain; the predicted one if None.
        logit: The explained logit, shown beside each map's total.
        region: ``(H, W)`` or ``(1, H, W)``, above 0 inside where evidence should lie; outlined. None if unknown.
        finding: The known evidence's mask, likewise; outlined with dashes.
        size: Height and width in pixels of a linked picture.
    """

    identifier: str
    image: ArrayLike | str
    true_class: str | None
    predicted_class: str
    probability: float
    explanations: Sequence[Explanation]
    explained_class: str | None = None
    logit: float | None = None
    region: ArrayLike | None = None
    finding: ArrayLike | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Section:
    """A section of one's own: a text, a table, a figure, each of them where given.

    Attributes:
        title: Its heading, different from every other section's.
        text: A paragraph.
        columns: The table's heads.
        rows: Cells, texts and numbers (three digits are shown).
        figure: A PNG's bytes.
        caption: What the figure shows, also for those who cannot see it.
    """

    title: str
    text: str = ""
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str | float]] = ()
    figure: bytes = b""
    caption: str = ""


@checked
@dataclass(frozen=True)
class Report:
    """Everything on the page. What is empty is left out, or said to be unknown.

    Attributes:
        title: The page's heading.
        model: What was tested, such as ``"resnet18, 11.2 M parameters"``.
        dataset: On what, such as ``"SyntheticCXR, 400 test images, seed 1"``.
        class_names: All K classes, in the order of the labels.
        metrics: The metrics table; the first four are repeated at the top.
        confusion: ``(K, K)`` counts, rows the true class, columns the predicted one; None without labels.
        examples: In the order shown; each class is a tab.
        region: What `Example.region` outlines, with its article, as it reads in "inside ...": ``"the lungs"``.
        localisation: For each class and method at most one.
        removal_tests: None were made if empty, and the page says so.
        class_metrics: Metric's name to one value for each class, such as ``{"AUROC": [0.98, ...]}``, beside the `by_class`.
        comparison: Methods measured against each other (`lrp_plugin.evaluation.compare`): table, curves, ranks.
        sections: Further sections, after the examples.
        minimum_inside: A warning is given where the interval of `Localisation.inside` lies wholly below this.
        minimum_drop: A shortcut is suspected where the interval of `RemovalTest.drop` lies wholly above this.
        settings: Name to value, listed under "How this was made": rules, seeds, versions, hardware.
        command: The command line that makes this page again.
        created: Date and time as shown; the page is the same for the same input.
        caution: The last line: what the page must not be taken for.

    Raises:
        ValueError: The confusion matrix is not ``(K, K)`` of counts, a class name is unknown, two
            localisations or two explanations of an example share a name, or a number leaves its range.
    """

    title: str
    model: str
    dataset: str
    class_names: Sequence[str]
    metrics: Sequence[Metric] = ()
    confusion: ArrayLike | Sequence[Sequence[int]] | None = None
    examples: Sequence[Example] = ()
    region: str = "the region"
    localisation: Sequence[Localisation] = ()
    removal_tests: Sequence[RemovalTest] = ()
    class_metrics: Mapping[str, Sequence[float]] = field(default_factory=dict)
    comparison: Comparison | None = None
    sections: Sequence[Section] = ()
    minimum_inside: float = 0.5
    minimum_drop: float = 0.05
    settings: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    created: str = ""
    caution: str = "For research on models."

    def __post_init__(self) -> None:
        counts, size = self.counts, len(self.class_names)
        if counts is not None and (
            counts.shape != (size, size) or (counts < 0).any() or (counts != counts.round()).any()
        ):
            raise ValueError(f"confusion is {counts.shape}; give counts ({size}, {size}) for {size} class names")
        for name, values in self.class_metrics.items():
            if len(values) != size:
                raise ValueError(f"class_metrics[{name!r}] has {len(values)} values for {size} classes")
        for example in self.examples:
            _check_example(example, self.class_names)
        pairs = [(entry.class_name, entry.method) for entry in self.localisation]
        _check_unique("localisation", pairs)
        _check_unique("sections", [section.title for section in self.sections])
        _check_classes(self.class_names, [*(pair[0] for pair in pairs), *(t.class_name for t in self.removal_tests)])

    @property
    def counts(self) -> Array | None:
        """The confusion matrix as an array ``(K, K)``."""
        return None if self.confusion is None else np.asarray(self.confusion)

    @property
    def by_class(self) -> dict[str, Sequence[float]]:
        """Each class against the rest: four shares of the confusion matrix, NaN for nothing of nothing; `class_metrics`."""
        if self.counts is None:
            return dict(self.class_metrics)
        right, actual, called = self.counts.diagonal(), self.counts.sum(1), self.counts.sum(0)
        rest = self.counts.sum() - actual - called + right
        with np.errstate(invalid="ignore"):
            shares = (right / actual, rest / (rest + called - right), right / called, rest / (rest + actual - right))
        named = zip(("Sensitivity", "Specificity", "PPV", "NPV"), (share.tolist() for share in shares))
        return {**dict(named), **self.class_metrics}


def _check_classes(known: Sequence[str], used: Sequence[str | None]) -> None:
    for name in used:
        if name is not None and name not in known:
            raise ValueError(f"class {name!r} is not among the report's class names: {', '.join(known)}")


def _check_unique(what: str, names: Sequence[object]) -> None:
    doubled = {name for name in names if names.count(name) > 1}
    if doubled:
        raise ValueError(f"{what} holds more than one entry for {sorted(doubled, key=str)[0]}")


def _check_example(example: Example, class_names: Sequence[str]) -> None:
    _check_classes(class_names, [example.true_class, example.predicted_class, example.explained_class])
    _check_unique(f"example {example.identifier!r}", [entry.method for entry in example.explanations])
    if not 0 <= example.probability <= 1:
        raise ValueError(f"example {example.identifier!r} has probability {example.probability}; give 0 to 1")
    if isinstance(example.image, str) and example.size is None:
        raise ValueError(f"example {example.identifier!r} links a picture; give its size=(height, width) in pixels")
