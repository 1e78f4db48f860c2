"""The report for everybody: axe-core finds no serious fault, and the keyboard alone reaches and moves everything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("jinja2", reason="the HTML report needs Jinja2")

from test_report import report

from lrp_plugin.evaluation import compare
from lrp_plugin.evaluation.comparison import interval_text
from lrp_plugin.evaluation.page import STYLE
from lrp_plugin.evidence import Interval
from lrp_plugin.report import write_report

TAB, ENTER, LEFT, END, HOME = "\ue004", "\ue007", "\ue012", "\ue010", "\ue011"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(tmp_path_factory.mktemp("report") / "report.html", report()).as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 400])
def test_axe_finds_no_serious_fault(page: str, faults_of: Callable[..., list[str]], width: int, scheme: str) -> None:
    assert not faults_of(page, width, scheme)


def test_axe_finds_what_is_wrong(tmp_path: Path, faults_of: Callable[..., list[str]]) -> None:
    """The test above can fail: a picture without a text, and grey words on grey."""
    text = Path(write_report(tmp_path / "report.html", report())).read_text()
    broken = text.replace("--ink:#1b2733", "--ink:#999").replace("<main", '<img src="data:,"><main', 1)
    (tmp_path / "broken.html").write_text(broken)
    found = " ".join(faults_of((tmp_path / "broken.html").as_uri(), 1400, "light"))
    assert "image-alt" in found and "color-contrast" in found


def focused(browser: Any) -> Any:
    return browser.switch_to.active_element


def press(browser: Any, *keys: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(browser).send_keys(*keys).perform()


def test_the_first_tab_skips_to_the_summary(browser: Any, page: str) -> None:
    browser.get(page)
    press(browser, TAB)
    assert focused(browser).text == "Skip to the summary" and focused(browser).rect["x"] >= 0
    press(browser, ENTER)
    assert focused(browser).get_attribute("id") == "summary"


def test_tab_reaches_every_control_in_order_and_shows_where_it_is(browser: Any, page: str) -> None:
    browser.get(page)
    wanted = browser.execute_script(
        "return [...document.querySelectorAll('a[href], button, input, [tabindex=\"0\"]')]"
        ".filter((one) => one.tabIndex >= 0 && one.checkVisibility())"
    )
    ring = (
        "const shown = (one) => getComputedStyle(one).outlineStyle !== 'none';"
        "const at = document.activeElement; return shown(at) || shown(at.parentElement)"
    )
    reached = []
    for _ in wanted:
        press(browser, TAB)
        reached.append(focused(browser))
        assert browser.execute_script(ring), f"no ring around {reached[-1].get_attribute('outerHTML')[:120]}"
    assert len(wanted) > 15 and reached == wanted


def test_sliders_move_by_arrow_keys_and_say_how_far(browser: Any, page: str) -> None:
    browser.get(page)
    sliders = [
        slider
        for slider in browser.find_elements("css selector", "input[type=range]")
        if browser.execute_script("return arguments[0].checkVisibility()", slider)
    ]
    assert len(sliders) >= 5, "one for all maps, one for each map of the first class's examples"
    for slider in sliders:
        browser.execute_script("arguments[0].focus()", slider)
        for key, value in ((HOME, "0"), (END, "100"), (LEFT, "99")):
            press(browser, key)
            assert slider.get_attribute("value") == value
        assert "99 %" in slider.get_attribute("aria-valuetext")


def test_every_number_is_on_paper(tmp_path: Path, cut_off: Callable[..., list[str]]) -> None:
    """718 CSS pixels lie between the margins of an upright A4 page; a comparison of methods has nine measures."""
    rows = "".join(
        f"<tr>{9 * cell}</tr>" for cell in ("<th>mass inside</th>", "<td>0.032 <small>[0.027, 0.037]</small></td>")
    )
    comparison = (
        f'<div class="lrp-comparison"><style>{STYLE}</style><div class="scroll"><table>{rows}</table></div></div>'
    )
    page = write_report(tmp_path / "report.html", report())
    page.write_text(page.read_text().replace("</main>", f"{comparison}</main>"))
    assert not cut_off(page.as_uri(), 718, "print")


def test_every_measure_of_a_comparison_is_on_a_telephone(tmp_path: Path, cut_off: Callable[..., list[str]]) -> None:
    """Its nine measures stood in one row, which a screen of 400 pixels cut after the first."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2)).eval()
    examples = (torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 0, 1]))
    found = compare(network, examples, ["saliency", "epsilon"], ["srg", "morf", "lerf", "entropy"], progress=False)
    page = tmp_path / "comparison.html"
    found.to_html(page)
    assert not cut_off(page.as_uri(), 400, "screen")
    assert page.read_text().count('data-head="SRG') == 3


def test_a_number_that_rounds_to_nothing_has_no_sign() -> None:
    assert interval_text(Interval(-0.0001, -0.0002, 0.0003, 4)) == "0.000 [0.000, 0.000]"
