"""Weights that are not on this machine, where no network answers: said at once, in one line."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lrp_plugin.cli import main


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A picture, empty caches, and no network; who is asked for is listed, and waiting is a failure."""
    asked: list[str] = []

    def nobody(host: Any, *_: Any, **__: Any) -> None:
        asked.append(str(host))
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save("cat.png")
    return asked


@pytest.mark.parametrize(
    ("package", "words"),
    [("transformers", ["hf:nobody/has-this"]), ("timm", ["timm:resnet18", "--weights", "DEFAULT"]),
     ("torchvision", ["resnet18", "--weights", "DEFAULT"])],
)  # fmt: skip
def test_weights_out_of_reach_are_named_at_once(
    offline: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], package: str,
    words: list[str],
) -> None:  # fmt: skip
    """The hub's libraries asked twelve times, with pauses, 23 to 53 seconds; their own lines came before the error."""
    pytest.importorskip(package, reason=f"needs {package}")
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it waits to try again"))
    assert main(["explain", "cat.png", "--model", *words]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "its weights are not on this machine, and no network answers" in error and "--checkpoint FILE" in error
    assert len(offline) <= 2, offline
    assert not Path("lrp-out").exists()


def test_the_hub_is_asked_again_by_the_next_call(offline: list[str]) -> None:
    constants = pytest.importorskip("huggingface_hub.constants", reason="needs huggingface_hub")
    from lrp_plugin.cli.downloads import hub_or_cache

    before = constants.HF_HUB_OFFLINE
    with hub_or_cache():
        assert constants.HF_HUB_OFFLINE
    assert constants.HF_HUB_OFFLINE is before
