"""One thread for every test, and Hypothesis without a clock: shared machines are slow at unforeseen times."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

for name, examples in (("default", 25), ("ci", 100)):
    settings.register_profile(
        name, max_examples=examples, deadline=None, derandomize=True, print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )  # fmt: skip
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[], AbstractContextManager[None]]:
    """A block in which the kernel answers ENOSPC to every byte that `lrp_plugin.files` means for the disk."""

    @contextmanager
    def full() -> Iterator[None]:
        real = os.open

        def nowhere(path: object, flags: int, *rest: object, **more: object) -> int:
            return real("/dev/full", os.O_WRONLY) if flags & os.O_EXCL else real(path, flags, *rest, **more)

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", nowhere)
            yield

    return full


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A chromium without a window, driven by selenium; 1280 pixels wide."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="the browser test needs selenium")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium and chromedriver here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    flags = (
        "headless=new no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
        "disable-component-update disable-sync force-prefers-reduced-motion window-size=1280,900"
    )
    for flag in flags.split():
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()


@pytest.fixture
def faults_of(browser: Any) -> Iterator[Callable[..., list[str]]]:
    """Opens a page as a screen of one width and scheme shows it; its serious accessibility faults, by axe-core."""
    axe = pytest.importorskip("axe_core_python.selenium", reason="needs axe-core-python (extra test)").Axe()

    def faults(url: str, width: int, scheme: str) -> list[str]:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "screen", "features": features})
        browser.get(url)
        found = axe.run(browser)
        failed = [one["message"] for one in found["incomplete"] if "error" in one]
        assert len(found["passes"]) > 10 and not failed, f"axe-core could not look at the page: {failed}"
        return [
            f"{one['impact']}: {one['id']}, {one['help']}: {node['html'][:120]}"
            for one in found["violations"] if one["impact"] in ("serious", "critical") for node in one["nodes"]
        ]  # fmt: skip

    yield faults
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


@pytest.fixture
def cut_off(browser: Any) -> Iterator[Callable[..., list[str]]]:
    """Opens a page on a width, in pixels, on paper or a screen; what of its tables lies beyond the edge."""

    def cut(url: str, width: int, media: str) -> list[str]:
        size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": True}  # without a scroll bar's room
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": []})
        browser.get(url)
        cells = "[...document.querySelectorAll('td, th')].filter((one) => one.checkVisibility())"
        assert browser.execute_script(f"return {cells}.length") > 10
        beyond = f"{cells}.filter((one) => one.getBoundingClientRect().right > {width} + 0.5)"
        return browser.execute_script(f"return {beyond}.map((one) => one.outerHTML.slice(0, 120))")

    yield cut
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
