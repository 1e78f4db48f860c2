"""The report over an archive: its numbers, its files, and that a real browser shows, filters and sorts it at once."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from by_hand import explain_by_hand
from killed_archive import settings
from PIL import Image
from radiographs import write_radiographs

pytest.importorskip("jinja2", reason="the HTML report needs Jinja2")

from lrp_plugin.archive import Archive
from lrp_plugin.archive.report import summarize, write_archive_report

PAPER = 718  # CSS pixels between the margins of an upright A4 page


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, weights: str) -> Path:
    folder = tmp_path_factory.mktemp("report")
    source = write_radiographs(folder / "data", 12)
    (folder / "data" / "images" / "11.png").write_bytes(b"broken")
    explain_by_hand(source, folder / "archive", settings(weights))
    return folder / "archive"


def rows_of(report: Path) -> dict[str, Any]:
    return json.loads((report / "rows.js").read_text().removeprefix("window.ARCHIVE=").rstrip(";\n"))


def test_distributions_and_the_worst_first(made: Path) -> None:
    archive = Archive(str(made))
    summary = summarize(archive, 100)
    assert (summary.items, summary.failed, summary.masks) == (12, 1, True)
    table = archive.filter(failed=False).to_arrow().to_pylist()
    for (prediction, method), found in summary.distributions.items():
        shares = [row["share"] for row in table if (row["prediction"], row["method"]) == (prediction, method)]
        assert found.mean == pytest.approx(statistics.mean(shares))
        assert len(shares) < 2 or found.deviation == pytest.approx(statistics.stdev(shares), rel=1e-6)
        assert found.counts.sum() == len(shares)
        assert not math.isnan(found.chance)
    assert summary.cases[0].rows[0]["error"]
    worst = [min(row["share"] for row in case.rows) for case in summary.cases[1:]]
    assert worst == sorted(worst)
    fewer = summarize(archive, 4)
    assert [case.rows[0]["id"] for case in fewer.cases] == [case.rows[0]["id"] for case in summary.cases[:4]]


def test_the_folder_holds_a_page_its_rows_and_a_picture_for_each_case(made: Path, tmp_path: Path) -> None:
    page = write_archive_report(str(made), tmp_path / "report")
    text = page.read_text()
    assert "12</b> of 12 items explained" in text
    found = rows_of(tmp_path / "report")["rows"]
    assert len(found) == 12
    for identifier, _, _, error, picture, _, maps in found:
        assert (error is None) == (picture is not None)
        if picture:
            with Image.open(tmp_path / "report" / picture) as strip:
                assert strip.size == (3 * 160, 160)
            one = Archive(str(made))[identifier]
            assert [entry[0] for entry in maps] == [explanation.method for explanation in one.explanations]
    write_archive_report(str(made), tmp_path / "report", examples=3)
    assert len(rows_of(tmp_path / "report")["rows"]) == 3
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds no report"):
        write_archive_report(str(made), tmp_path / "other")


def cards(browser: Any) -> list[str]:
    script = "return [...document.querySelectorAll('.case h3')].map((head) => head.firstChild.textContent)"
    return browser.execute_script(script)


def choose(browser: Any, control: str, value: str) -> None:
    script = (
        "const c = document.getElementById(arguments[0]); c.value = arguments[1]; c.dispatchEvent(new Event('input'))"
    )
    browser.execute_script(script, control, value)


def check_in_browser(browser: Any, report: Path) -> float:
    """Filters, sorts and turns pages, and compares with the rows; the milliseconds until the first page stood."""
    data = rows_of(report)
    rows, first_page = data["rows"], 50
    browser.get((report / "index.html").as_uri())
    assert cards(browser) == [row[0] for row in rows[:first_page]]
    timing = "const n = performance.getEntriesByType('navigation')[0]; return n.domContentLoadedEventEnd"
    milliseconds = browser.execute_script(timing)
    choose(browser, "sort", "share")
    method = browser.execute_script("return document.getElementById('method').value")
    shares = {row[0]: next((entry[4] for entry in row[6] if entry[0] == method), None) for row in rows}
    known = sorted(share for share in shares.values() if share is not None)
    assert [shares[name] for name in cards(browser)][: len(known)] == known[:first_page]
    middle = round(100 * known[len(known) // 2])
    choose(browser, "high", str(middle))
    wanted = [share for share in known if share <= middle / 100]
    assert [shares[name] for name in cards(browser)] == wanted[:first_page]
    assert browser.find_element("id", "count").text == f"{len(wanted)} of {len(rows)} listed"
    choose(browser, "high", "100")
    choose(browser, "sort", "id")
    assert cards(browser) == sorted(row[0] for row in rows)[:first_page]
    label = rows[-1][1]
    choose(browser, "label", label)
    assert cards(browser) == sorted(row[0] for row in rows if row[1] == label)[:first_page]
    choose(browser, "label", "")
    choose(browser, "find", rows[1][0])
    assert rows[1][0] in cards(browser)
    choose(browser, "find", "")
    if len(rows) > first_page:
        browser.find_element("id", "next").click()
        assert cards(browser) == sorted(row[0] for row in rows)[first_page : 2 * first_page]
        loaded = "return performance.getEntriesByType('resource').filter((one) => one.name.endsWith('.jpg')).length"
        assert browser.execute_script(loaded) < len(rows) / 2, "pictures must load when they are seen, not before"
    browser.execute_script("document.querySelector('.case img').scrollIntoView()")
    size = "const i = document.querySelector('.case img'); return i.complete ? i.naturalWidth : 0"
    limit = time.monotonic() + 30
    while not browser.execute_script(size) and time.monotonic() < limit:
        time.sleep(0.05)
    assert browser.execute_script(size) > 0
    assert browser.get_log("browser") == []
    return milliseconds


def test_a_browser_filters_and_sorts(made: Path, tmp_path: Path, browser: Any) -> None:
    write_archive_report(str(made), tmp_path / "report")
    check_in_browser(browser, tmp_path / "report")
    choose(browser, "kind", "failed")
    assert cards(browser) == ["p11"]
    assert "reading: ImageError" in browser.find_element("css selector", ".error").text


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 400])
def test_axe_finds_no_serious_fault(
    made: Path, tmp_path: Path, faults_of: Callable[..., list[str]], browser: Any, width: int, scheme: str
) -> None:
    page = write_archive_report(str(made), tmp_path / "report")
    assert not faults_of(page.as_uri(), width, scheme)


@pytest.mark.parametrize(("width", "media"), [(400, "screen"), (PAPER, "print")])
def test_every_number_is_on_a_narrow_screen_and_on_paper(
    made: Path, tmp_path: Path, cut_off: Callable[..., list[str]], width: int, media: str
) -> None:
    assert not cut_off(write_archive_report(str(made), tmp_path / "report").as_uri(), width, media)


@pytest.mark.slow
def test_five_thousand_in_a_browser(tmp_path: Path, weights: str, browser: Any) -> None:
    source = write_radiographs(tmp_path / "data", 12)
    head, *lines = source.read_text().splitlines()
    many = [line.replace(line.split(",")[0], f"p{number:05d}", 1) for number, line in enumerate(lines * 417)]
    source.write_text("\n".join([head, *many[:5000]]) + "\n")
    explain_by_hand(source, tmp_path / "archive", settings(weights, chunk=128, batch=32))
    write_archive_report(str(tmp_path / "archive"), tmp_path / "report")
    assert len(rows_of(tmp_path / "report")["rows"]) == 5000
    print(f"first page after {check_in_browser(browser, tmp_path / 'report'):.0f} ms")
