"""The folder of the report: one page, its rows as data, a picture file for each case that is loaded when it is seen."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

from lrp_plugin.archive.items import Item
from lrp_plugin.archive.manifest import restored
from lrp_plugin.archive.reader import Archive
from lrp_plugin.archive.report.strips import strip
from lrp_plugin.archive.report.summary import BINS, Case, Distribution, Summary, summarize
from lrp_plugin.files import write_atomically

try:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup
except ImportError as error:
    raise ImportError("the HTML report needs Jinja2: pip install 'lrp-plugin[archive]'") from error

PAGE = "index.html"
ROWS = "rows.js"
PICTURES = "pictures"
_MARK = "<!-- lrp-plugin archive report -->"


def write_archive_report(
    url: str, out: str | Path, *, examples: int = 5000, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Write the report of an archive into a folder of its own.

    Distributions are over the whole archive; pictures are drawn for the worst ``examples``. A source that vanished since
    is shown grey under its maps.

    Args:
        url: The archive.
        out: The folder; new, empty, or an earlier report.
        examples: How many cases are listed.
        progress: Called with pictures drawn and all pictures.

    Returns:
        The page.

    Raises:
        FileExistsError: ``out`` holds something else.
        ValueError: Nothing is explained yet.
    """
    folder = Path(out)
    if folder.exists() and any(folder.iterdir()) and not _is_report(folder):
        raise FileExistsError(f"{folder} is not empty and holds no report; it is left as it was. Give another folder")
    archive = Archive(url)
    summary = summarize(archive, examples)
    if not summary.items:
        raise ValueError(f"{url}: nothing is explained yet")
    names = _draw(archive, summary.cases, folder / PICTURES, progress)
    rows = [_row(case, name) for case, name in zip(summary.cases, names)]
    data = {"classes": archive.manifest.classes or [], "rows": rows, "masks": summary.masks}
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    write_atomically(folder / ROWS, f"window.ARCHIVE={text};\n".encode())
    return write_atomically(folder / PAGE, _page(archive, summary).encode())


def _is_report(folder: Path) -> bool:
    page = folder / PAGE
    return page.is_file() and _MARK in page.read_text(errors="replace")[:200]


def _draw(
    archive: Archive, cases: Sequence[Case], folder: Path, progress: Callable[[int, int], None] | None
) -> list[str | None]:
    """A file for each case that has maps; cases are taken file by file, so that each is opened once."""
    picture = restored(archive.manifest).picture
    names: list[str | None] = [None] * len(cases)
    places: dict[int, list[tuple[int, int]]] = {}
    for number, case in enumerate(cases):
        if case.rows[0]["method"] is not None and case.rows[0]["error"] is None:
            chunk, place = archive.plan.find(case.rows[0]["id"])
            places.setdefault(chunk, []).append((place, number))
    drawn = 0
    with ThreadPoolExecutor(4) as pool:
        for chunk, wanted in sorted(places.items()):
            items = archive.plan.items(chunk)

            def one(entry: tuple[int, int], chunk: int = chunk, items: list[Item] = items) -> tuple[int, str]:
                place, number = entry
                name = f"{chunk:08d}-{place}.jpg"
                write_atomically(folder / name, strip(items[place], archive[items[place].id], picture))
                return number, name

            for number, name in pool.map(one, wanted):
                names[number] = f"{PICTURES}/{name}"
                drawn += 1
            if progress is not None:
                progress(drawn, len(cases))
    return names


def _row(case: Case, name: str | None) -> list[Any]:
    """id, label, prediction, error, picture, badness, [[method, target, logit, relevance, share], ...]."""
    first = case.rows[0]
    maps = [
        [row["method"], row["target"], _digits(row["logit"]), _digits(row["relevance"]), _digits(row["share"])]
        for row in case.rows
        if row["method"] is not None
    ]
    return [first["id"], first["label"], first["prediction"], first["error"], name, _digits(case.badness), maps]


def _digits(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")


def _asset(name: str) -> Markup:
    """A file of this package that goes into the page as it is: our own CSS and JavaScript."""
    return Markup((resources.files(__package__) / "templates" / name).read_text(encoding="utf-8"))


def _page(archive: Archive, summary: Summary) -> str:
    environment = Environment(
        loader=PackageLoader("lrp_plugin.archive.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(number=_number, percent=_percent)
    manifest = archive.manifest
    classes = manifest.classes or []
    rows = [
        (classes[number] if number < len(classes) else f"output {number}", method, found, _bars(found))
        for (number, method), found in summary.distributions.items()
    ]
    return environment.get_template("archive.html.j2").render(
        mark=Markup(_MARK), summary=summary, planned=len(archive), model=manifest.decided["model"], rows=rows, bins=BINS,
        methods=manifest.decided["methods"], versions=manifest.about["versions"], created=manifest.about["created"],
        css=_asset("archive.css"), script=_asset("archive.js"), name=archive.url, rows_file=ROWS,
    )  # fmt: skip


def _bars(found: Distribution) -> list[tuple[int, float]]:
    """The histogram's bars: how many, and how high in [0, 1]."""
    most = max(int(found.counts.max()), 1)
    return [(int(count), count / most) for count in found.counts]


def _number(value: float) -> str:
    return "\u2013" if math.isnan(value) else f"{value:.3g}".replace("-", "\u2212")


def _percent(value: float) -> str:
    return "\u2013" if math.isnan(value) else f"{100 * value:.1f}\u00a0%"
