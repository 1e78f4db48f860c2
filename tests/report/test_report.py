"""The report: what it says, that it holds everything itself, and that it works in a real browser."""

from __future__ import annotations

import base64
import io
import math
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import classification_report, confusion_matrix

pytest.importorskip("jinja2", reason="the HTML report needs Jinja2")

from lrp_plugin.evaluation.evidence import removal_tests
from lrp_plugin.evidence import Interval
from lrp_plugin.report import (
    Example,
    Explanation,
    Localisation,
    Metric,
    RemovalTest,
    Report,
    Section,
    layer_png,
    outside,
    render_report,
    suspicions,
    write_report,
)
from lrp_plugin.report.pictures import outline

CLASSES = ["COVID", "Normal"]


def around(mean: float, spread: float = 0.04, count: int = 50) -> Interval:
    return Interval(mean, mean - spread, mean + spread, count)


def example(identifier: str, true_class: str, **changes) -> Example:
    generator = torch.Generator().manual_seed(len(identifier))
    lungs = torch.zeros(32, 40)
    lungs[8:24, 6:18] = 1
    fields = {
        "identifier": identifier,
        "image": torch.rand(1, 32, 40, generator=generator),
        "true_class": true_class,
        "predicted_class": "COVID",
        "probability": 0.9,
        "explanations": [
            Explanation("Gradient saliency", torch.rand(1, 32, 40, generator=generator), 0.25),
            Explanation("LRP epsilon", torch.randn(3, 16, 20, generator=generator), 0.8, total=3.21),
        ],
        "logit": 3.3,
        "region": lungs,
    }
    return Example(**{**fields, **changes})


def report(**changes) -> Report:
    fields = {
        "title": "Chest X-ray report",
        "region": "the lungs",
        "model": "ReferenceCNN",
        "dataset": "SyntheticCXR, 100 test images",
        "class_names": CLASSES,
        "metrics": [
            Metric("Accuracy", 0.95, around(0.95, 0.02), percent=True),
            Metric("AUROC", math.nan, note="one class only"),
        ],
        "confusion": [[45, 5], [0, 50]],
        "examples": [example("a-1", "COVID"), example("a-22", "COVID"), example("b-333", "Normal")],
        "localisation": [
            Localisation("COVID", "Gradient saliency", around(0.25), 0.3),
            Localisation("COVID", "LRP epsilon", around(0.8), 0.3),
            Localisation("Normal", "LRP epsilon", around(0.48), 0.3),
        ],
        "removal_tests": [
            RemovalTest("COVID", "text marker", around(0.98), around(0.4), around(0.58)),
            RemovalTest("Normal", "text marker", around(0.98), around(0.97), around(0.01)),
        ],
        "class_metrics": {"Sensitivity": [0.9, 1.0]},
        "settings": {"Seed": "7"},
    }
    return Report(**{**fields, **changes})


def clean_report() -> Report:
    return report(
        localisation=[Localisation("COVID", "LRP epsilon", around(0.8), 0.3)],
        removal_tests=[RemovalTest("COVID", "text marker", around(0.98), around(0.97), around(0.01))],
    )


class Page(HTMLParser):
    """The text, and every attribute that could load something."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.loads: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.loads += [value for name, value in attrs if name in ("src", "srcset", "data") or tag == "link"]

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split()).replace("\u00a0", " ")


def test_each_class_against_the_rest_equals_scikit_learns():
    generator = np.random.default_rng(0)
    true, guess = generator.integers(0, 3, 60), generator.integers(0, 3, 60)
    names, matrix = ["a", "b", "c"], torch.from_numpy(confusion_matrix(true, guess))
    found = Report("T", "M", "D", names, confusion=matrix, class_metrics={"AUROC": [0.5, 0.6, 0.7]}).by_class
    for label in range(3):
        rest = classification_report(true != label, guess != label, output_dict=True)
        own = {"Sensitivity": rest["False"]["recall"], "Specificity": rest["True"]["recall"],
               "PPV": rest["False"]["precision"], "NPV": rest["True"]["precision"]}  # fmt: skip
        shares = {name: values[label] for name, values in found.items() if name != "AUROC"}
        assert shares == pytest.approx(own) and list(shares) == list(own)
    assert found["AUROC"] == [0.5, 0.6, 0.7]
    assert math.isnan(Report("T", "M", "D", ["a", "b"], confusion=[[3, 0], [0, 0]]).by_class["PPV"][1]), "of nothing"
    assert Report("T", "M", "D", ["a", "b"]).by_class == {}


def test_a_warning_needs_the_whole_interval_below_the_threshold():
    entries = {
        "below": around(0.4, 0.05),
        "across": around(0.48, 0.05),
        "above": around(0.6, 0.05),
        "one image": Interval(0.1, math.nan, math.nan, 1),
        "none": Interval(math.nan, math.nan, math.nan, 0, 5),
    }
    found = outside(report(localisation=[Localisation("COVID", m, i, 0.3) for m, i in entries.items()]))
    assert [entry.method for entry in found] == ["below", "one image"]


def test_a_shortcut_needs_the_drop_and_reports_the_maps_beside_it():
    (found,) = suspicions(report())
    assert found.test.class_name == "COVID"
    assert [entry.method for entry in found.agreeing] == ["Gradient saliency"]
    assert [entry.method for entry in found.differing] == ["LRP epsilon"]
    unsure = RemovalTest("COVID", "text marker", around(0.9), around(0.8), Interval(0.1, 0.04, 0.2, 50))
    assert suspicions(report(removal_tests=[unsure])) == []


def test_the_page_names_the_shortcut_and_the_evidence_outside():
    text = Page(render_report(report())).text
    assert "Suspected shortcut: COVID" in text
    assert "accuracy falls from 98.0 % to 40.0 % when the text marker is removed" in text
    assert "under Gradient saliency (75.0 % outside)" in text
    assert "Evidence outside the lungs in 1 of 3" in text
    assert "COVID: Gradient saliency, 75.0 % outside (less inside than by chance)." in text


def test_a_clean_page_names_none():
    html = render_report(clean_report())
    assert 'id="no-shortcut"' in html and 'id="no-warnings"' in html
    assert "Suspected shortcut:" not in Page(html).text
    assert "Nothing suspicious was measured." in Page(html).text


def test_what_was_not_measured_is_not_called_clean():
    text = Page(render_report(report(localisation=[], removal_tests=[]))).text
    assert "Not examined." in text and "Not measured." in text and "Not tested:" in text
    assert "Nothing suspicious was measured." not in text


@pytest.mark.parametrize(
    ("value", "shown"), [(1.0, "1.00"), (0.99996, "1.00"), (0.967, "0.967"), (-9.9996, "\u221210.0")]
)
def test_numbers_that_round_alike_look_alike(value: float, shown: str):
    """An AUROC of 0.99996 stood as 1.000 beside one of 1.00."""
    from lrp_plugin.report.page import _number

    assert _number(value) == shown


def test_metrics_and_confusion_are_shown_and_missing_numbers_are_dashes():
    text = Page(render_report(report())).text
    assert "Accuracy 95.0 % 93.0 to 97.0 %" in text
    assert "AUROC \u2013 \u2013 one class only" in text
    assert "45 90 % 5 10 %" in text


def test_the_page_loads_nothing_from_anywhere():
    html = render_report(report())
    loads = Page(html).loads
    assert loads and all(load.startswith("data:image/png;base64,") for load in loads)
    assert all(url.startswith("data:") for url in re.findall(r"url\(([^)]*)\)", html))
    assert "default-src 'none'" in html
    assert "@import" not in html


def test_text_from_outside_is_escaped():
    evil = "<script>alert(1)</script>"
    html = render_report(report(title=evil, examples=[example(evil, "COVID")], settings={evil: evil}))
    assert evil not in html
    assert html.count("&lt;script&gt;alert(1)") >= 4


def decode(url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGBA"))


def test_the_layer_is_red_for_blue_against_and_exactly_clear_at_zero():
    relevance = torch.zeros(32, 40)
    relevance[0, 0], relevance[0, 1], relevance[1, 0] = 2.0, -2.0, 1.0
    given = example("one", "COVID", explanations=[Explanation("map", relevance)])
    layer = decode(Page(render_report(report(examples=[given]))).loads[0])
    assert layer.shape == (32, 40, 4)
    assert layer[5:, :, 3].max() == 0
    assert layer[0, 0, 0] > 200 > layer[0, 0, 2] and layer[0, 1, 2] > 200 > layer[0, 1, 0]
    assert layer[0, 0, 3] == layer[0, 1, 3] == round(0.95 * 255)
    assert layer[1, 0, 3] == pytest.approx(0.95 * 255 / 2, abs=2)


def test_large_radiographs_are_reduced():
    big = example("big", "COVID", image=torch.rand(1, 800, 1000), region=torch.ones(800, 1000))
    layer = decode(Page(render_report(report(examples=[big]))).loads[0])
    assert layer.shape == (307, 384, 4)


def test_outlines_follow_the_mask_and_end_at_the_border():
    """The whole of three rows and two columns: along the picture's own edge, in pixels, closed."""
    path = outline(torch.ones(3, 2), (3, 2))
    points = np.array([[float(value) for value in point.split()] for point in path[1:-1].split("L")])
    assert path.startswith("M") and path.endswith("Z")
    assert points.min(0).tolist() == [0, 0] and points.max(0).tolist() == [2, 3]
    assert outline(None, (3, 2)) == ""


def test_writing_is_atomic(tmp_path, monkeypatch):
    path = write_report(tmp_path / "new" / "report.html", report())
    first = path.read_text(encoding="utf-8")
    assert first.startswith("<!DOCTYPE html>")
    assert render_report(report()) == first, "the same input gives the same page"

    def fail(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        write_report(path, clean_report())
    assert path.read_text(encoding="utf-8") == first
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"confusion": [[1, 2, 3]]}, "confusion is"),
        ({"confusion": [[0.5, 0], [0, 1]]}, "give counts"),
        ({"confusion": [[-1, 0], [0, 1]]}, "give counts"),
        ({"class_metrics": {"F1": [0.5]}}, r"class_metrics\['F1'\] has 1 values for 2"),
        (
            {"examples": [example("x", "Covid")]},
            "'Covid' is not among the report's class names: COVID, Normal",
        ),
        ({"examples": [example("x", "COVID", probability=93.0)]}, "probability 93.0; give 0 to 1"),
        (
            {"examples": [example("x", "COVID", explanations=[Explanation("m", torch.ones(2, 2))] * 2)]},
            "more than one entry for m",
        ),
        ({"localisation": [Localisation("Flu", "LRP", around(0.5), 0.3)]}, "'Flu' is not among"),
        ({"localisation": [Localisation("COVID", "LRP", around(0.5), 0.3)] * 2}, "more than one entry"),
        ({"removal_tests": [RemovalTest("Flu", "m", around(1), around(1), around(0))]}, "'Flu' is not among"),
    ],
)
def test_bad_input_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        report(**changes)


def test_an_example_without_a_label_claims_no_truth():
    html = render_report(report(examples=[example("film", None)]))
    text = Page(html).text
    assert "film COVID, 90.0 %; true class unknown" in text
    assert "\u2713" not in text and "\u2717" not in text
    assert "without a label" in text


def test_examples_of_an_archive_are_linked_and_loaded_late():
    maps = [Explanation("LRP", "maps/7.png", 0.5)]
    given = example("7", "COVID", image="images/7.png", size=(64, 48), explanations=maps, region=None)
    html = render_report(report(examples=[given]))
    assert Page(html).loads == ["images/7.png", "maps/7.png"]
    assert html.count('loading="lazy"') == 2
    assert "aspect-ratio:48/64" in html
    with pytest.raises(ValueError, match="give its size"):
        report(examples=[example("7", "COVID", image="images/7.png")])


def test_a_report_needs_neither_labels_nor_lungs():
    text = Page(render_report(Report("Cats", "net", "pictures", ["cat", "dog"], region="the animal"))).text
    assert "Is it looking at the animal?" in text
    assert "lung" not in text and "Performance" not in text and "ray" not in text.replace("array", "")


def test_further_sections_hold_tables_and_figures():
    figure = layer_png(torch.ones(4, 4), (4, 4))
    section = Section(
        "Faithfulness", "Areas.", ["method", "SRG"], [["LRP", 0.12345], ["saliency", "none"]], figure, "x"
    )
    html = render_report(report(sections=[section]))
    assert "LRP 0.123" in Page(html).text and "saliency none" in Page(html).text
    assert (decode(Page(html).loads[-1]) == np.asarray(Image.open(io.BytesIO(figure)).convert("RGBA"))).all()
    with pytest.raises(ValueError, match="more than one entry for Faithfulness"):
        report(sections=[section] * 2)


def test_methods_compared_have_their_table_and_pictures():
    """The last picture is the agreement's; a method's name from outside is escaped, a failed one says why."""
    from lrp_plugin.evaluation import compare

    class Broken:
        def attribute(self, inputs, target=None):
            raise ValueError("no <map>")

    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)).eval()
    found = compare(model, torch.rand(6, 1, 8, 8), {"epsilon": "epsilon", "<b>": Broken()}, ["srg"], progress=False)
    page = Page(render_report(report(comparison=found)))
    assert (
        "Which map can be trusted?" in page.text and "SRG \u2191" in page.text and "ValueError: no <map>" in page.text
    )
    assert "<b>" in page.text and len([url for url in page.loads if url.startswith("data:image/png")]) >= 3
    assert "Which map" not in Page(render_report(report())).text


@pytest.fixture
def opened(browser, tmp_path):
    browser.get(write_report(tmp_path / "report.html", report()).as_uri())
    return browser


def css(browser, selector: str):
    return browser.find_elements("css selector", selector)


def test_browser_tabs_show_one_class_at_a_time(opened):
    tabs = css(opened, '[role="tab"]')
    assert [tab.text.split()[0] for tab in tabs] == CLASSES
    panels = css(opened, '[role="tabpanel"]')
    assert [panel.is_displayed() for panel in panels] == [True, False]
    assert len([article for article in css(opened, "article") if article.is_displayed()]) == 2
    tabs[1].click()
    assert [panel.is_displayed() for panel in panels] == [False, True]
    assert [tab.get_attribute("aria-selected") for tab in tabs] == ["false", "true"]
    tabs[1].send_keys("\ue012")  # Arrow left.
    assert [panel.is_displayed() for panel in panels] == [True, False]


def test_browser_slider_uncovers_the_map(opened):
    from selenium.webdriver.common.action_chains import ActionChains

    viewer, other = css(opened, ".viewer")[:2]
    slider, layer = (viewer.find_element("css selector", name) for name in ("input", ".layer"))

    def clip(element=layer) -> str:
        return opened.execute_script("return getComputedStyle(arguments[0]).clipPath", element)

    # The computed style keeps "100% - 50%" as a calc(); only the number that the slider sets matters.
    assert clip() == "inset(0px 0% 0px 0px)", "the map is seen whole at first"
    untouched = clip(other.find_element("css selector", ".layer"))
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", viewer)
    width = viewer.size["width"]
    ActionChains(opened).move_to_element_with_offset(viewer, int(width * 0.48), 0).click_and_hold().move_by_offset(
        -int(width * 0.25), 0
    ).release().perform()
    value = int(slider.get_attribute("value"))
    assert 60 <= value <= 90
    assert slider.get_attribute("aria-valuetext") == f"the map covers {value} % of the image"
    assert opened.execute_script("return arguments[0].style.getPropertyValue('--at')", viewer) == f"{value}%"
    assert clip() != untouched, "the layer follows its slider"
    assert clip(other.find_element("css selector", ".layer")) == untouched, "other maps stay"
    slider.send_keys("\ue014")  # Arrow right.
    assert int(slider.get_attribute("value")) == value + 1


def test_browser_moving_the_divider_changes_the_pixels(opened):
    viewer = css(opened, ".viewer")[1]
    opened.execute_script("document.getElementById('outlines').click()")
    opened.execute_script("document.querySelectorAll('.divider').forEach(e => e.style.display = 'none')")

    def picture(value: int) -> np.ndarray:
        opened.execute_script(
            "const s = document.getElementById('all-maps'); s.value = arguments[0];s.dispatchEvent(new Event('input'))",
            value,
        )
        shot = Image.open(io.BytesIO(viewer.screenshot_as_png)).convert("RGB")
        return np.asarray(shot).astype(int)

    bare, half, covered = picture(0), picture(50), picture(100)
    # Away from the rounded corners and the divider's own place.
    left, right = np.s_[10:-10, 10 : bare.shape[1] // 2 - 4], np.s_[10:-10, bare.shape[1] // 2 + 4 : -10]
    assert np.abs(covered - bare).max() > 60
    assert (bare.max(2) - bare.min(2)).max() <= 3, "the radiograph alone is grey"
    assert np.array_equal(half[left], covered[left]) and np.array_equal(half[right], bare[right])


def test_browser_outlines_can_be_switched_off(opened):
    outline = css(opened, ".outline path")[0]
    assert outline.is_displayed()
    css(opened, "#outlines")[0].click()
    assert not outline.is_displayed()


def test_browser_a_map_can_be_enlarged_and_closed_by_keyboard(opened):
    button, dialog = css(opened, ".enlarge")[0], css(opened, "#large")[0]
    assert not dialog.is_displayed()
    small = css(opened, ".viewer")[0].size["width"]
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.send_keys("\ue007")  # Enter.
    assert dialog.is_displayed()
    assert dialog.find_element("css selector", ".viewer").size["width"] > 2 * small
    dialog.find_element("css selector", "input").send_keys("\ue012")  # Arrow left: the copy's slider works.
    assert "99 %" in dialog.find_element("css selector", "input").get_attribute("aria-valuetext")
    opened.switch_to.active_element.send_keys("\ue00c")  # Escape.
    assert not dialog.is_displayed()


def test_browser_every_number_is_on_a_narrow_screen(browser, tmp_path):
    size = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        browser.get(write_report(tmp_path / "report.html", report()).as_uri())
        cells = css(browser, ".stack td")
        assert len(cells) > 20
        off = [cell.text for cell in cells if cell.text and cell.rect["x"] + cell.rect["width"] > 400]
        assert not off
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_browser_prints_whole_maps(opened):
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        css_of = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
        opened.execute_script("document.querySelectorAll('.viewer').forEach(v => v.style.setProperty('--at', '30%'))")
        assert opened.execute_script(css_of, ".layer", "clipPath") == "none"
        assert all(panel.is_displayed() for panel in css(opened, '[role="tabpanel"]'))
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@pytest.mark.parametrize("width", [1280, 390])
def test_browser_page_fits_the_width_and_logs_no_error(browser, tmp_path, width):
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        browser.get(write_report(tmp_path / "report.html", report()).as_uri())
        root = "document.documentElement"
        assert browser.execute_script(f"return {root}.scrollWidth - {root}.clientWidth") == 0
        assert browser.find_element("tag name", "h1").is_displayed()
        # What the content security policy refuses, and what fails in the script, is logged as SEVERE.
        assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_removal_is_measured_on_each_image_twice_and_for_classes_that_occur():
    tests = removal_tests(
        ["cat", "dog", "newt"], "a mark", [0, 0, 1, 1], [True, True, True, False], [1.0, 0.0, 1.0, 0.0]
    )
    assert [(test.class_name, test.removed) for test in tests] == [("cat", "a mark"), ("dog", "a mark")]
    assert [test.accuracy_with.mean for test in tests] == [1.0, 0.5]
    assert [test.accuracy_without.mean for test in tests] == [0.5, 0.5]
    assert [test.drop.mean for test in tests] == [0.5, 0.0]
    assert tests[1].drop.low == tests[1].drop.high == 0.0, "paired: no image of this class changed"
