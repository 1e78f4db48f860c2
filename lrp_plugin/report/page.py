"""From a `Report` to one self-contained page."""

from __future__ import annotations

import math
import os
from importlib import resources
from pathlib import Path
from typing import Any

from lrp_plugin.evaluation.page import comparison_fragment
from lrp_plugin.evidence import Interval
from lrp_plugin.files import write_atomically
from lrp_plugin.kinds import checked
from lrp_plugin.report.data import Example, Report
from lrp_plugin.report.findings import outside, suspicions
from lrp_plugin.report.pictures import data_url, image_url, layer_url, outline, reduced_image

try:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup
except ImportError as error:
    raise ImportError("the HTML report needs Jinja2: pip install 'lrp-plugin[report]'") from error


UNLABELLED = "without a label"


def _number(value: float | None, percent: bool = False) -> str:
    """A number of three digits or a percentage of one decimal; a dash for none."""
    if value is None or math.isnan(value):
        return "\u2013"
    if percent:
        # No line break between the number and its sign.
        return f"{100 * value:.1f}\u00a0%".replace("-", "\u2212")
    size = round(abs(value), 3)  # 0.9996 and 1 are the same three digits
    digits = 3 if size < 1 else 2 if size < 10 else 1 if size < 1000 else 0
    return f"{value:.{digits}f}".replace("-", "\u2212")


def _interval(interval: Interval | None, percent: bool = False) -> str:
    """Both ends, or a dash where there is no interval."""
    if interval is None or math.isnan(interval.low):
        return "\u2013"
    if not percent:
        return f"{_number(interval.low)} to {_number(interval.high)}"
    return f"{100 * interval.low:.1f} to {100 * interval.high:.1f}\u00a0%".replace("-", "\u2212")


def _view(example: Example) -> dict[str, Any]:
    """The example with its pictures, as the template wants it."""
    linked = isinstance(example.image, str)
    if linked:
        size = example.size or (1, 1)
    else:
        picture = reduced_image(example)
        size = (picture.shape[0], picture.shape[1])
    return {
        "example": example,
        "explained": example.explained_class or example.predicted_class,
        "height": size[0],
        "width": size[1],
        "linked": linked,
        "image": example.image if linked else image_url(picture),
        "region": outline(example.region, size),
        "finding": outline(example.finding, size),
        "maps": [(entry, layer_url(entry, size)) for entry in example.explanations],
    }


def _asset(name: str) -> Markup:
    """A file of this package that goes into the page as it is: our own CSS and JavaScript."""
    return Markup((resources.files(__package__) / "templates" / name).read_text(encoding="utf-8"))


@checked
def render_report(report: Report) -> str:
    """The page as HTML with pictures, style and script inside; it loads nothing.

    Raises:
        ValueError: An image, a map or a mask has no legal shape.
    """
    environment = Environment(
        loader=PackageLoader("lrp_plugin.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=_number, interval=_interval, data_url=data_url)
    views: dict[str, list[dict[str, Any]]] = {name: [] for name in [*report.class_names, UNLABELLED]}
    for example in report.examples:
        views[example.true_class or UNLABELLED].append(_view(example))
    every = [view for entries in views.values() for view in entries]
    return environment.get_template("report.html.j2").render(
        report=report,
        counts=None if report.counts is None else report.counts.astype(int).tolist(),
        views=views,
        linked=any(view["linked"] or not url.startswith("data:") for view in every for _, url in view["maps"]),
        warnings=outside(report),
        suspicions=suspicions(report),
        # Our own page part, which escapes what it holds.
        comparison=None if report.comparison is None else Markup(comparison_fragment(report.comparison)),
        css=_asset("report.css"),
        script=_asset("report.js"),
    )


@checked
def write_report(path: str | os.PathLike[str], report: Report) -> Path:
    """Write the page, atomically: no reader and no crash meets half of it.

    Missing folders are made, an existing file is replaced; raises what `render_report` does, and OSError.
    """
    return write_atomically(path, render_report(report).encode("utf-8"))
