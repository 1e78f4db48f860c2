"""What a network or a file of weights cannot be used for: one line that says what came, what is legal, and the remedy."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from lrp_plugin import explain_image, explain_signal, explain_text
from lrp_plugin.cli import main

NETWORKS = """
import sys
import torch
from torch import nn

class Answering(nn.Module):
    def __init__(self, answer, channels=3):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.head = nn.Linear(16, 2)
        self.answer = answer

    def forward(self, x):
        return self.answer(self.head(self.body(x)))

def small(): return Answering(lambda scores: scores)
def named(): return Answering(lambda scores: {"scores": scores})
def none(): return Answering(lambda scores: scores[:, :0])
def nan(): return Answering(lambda scores: scores * float("nan"))
def failing(): return Answering(lambda scores: {}["key"])
def fixed(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 30 * 30, 2))
def four(): return Answering(lambda scores: scores, 4)
def leaving(): sys.exit(3)

class Casting(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Conv2d(3, 4, 3).double()

    def forward(self, x):
        return self.inner(x.float())

class Two(nn.Module):
    def forward(self, x, y):
        return x

def meta():
    with torch.device("meta"):
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A picture, networks of one's own, weights that are whole and weights that are not."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("cat.png")
    Path("net.py").write_text(NETWORKS)
    Path("script.py").write_text("import argparse\nargparse.ArgumentParser(prog='train').parse_args(['--epochs'])\n")
    space: dict[str, Any] = {}
    exec(NETWORKS, space)
    weights = space["small"]().state_dict()

    def save(name: str, change: Callable[[Tensor], Tensor]) -> None:
        torch.save({key: change(value) for key, value in weights.items()}, name)

    save("whole.pt", lambda value: value)
    save("half.pt", lambda value: value.half())
    save("int.pt", lambda value: value.to(torch.int64))
    save("complex.pt", lambda value: value.to(torch.complex64))
    save("sparse.pt", lambda value: value.to_sparse())
    save("meta.pt", lambda value: value.to("meta"))
    save("nan.pt", lambda value: value * float("nan"))
    Path("cut.pt").write_bytes(Path("whole.pt").read_bytes()[:900])
    Path("cut.safetensors").write_bytes(b"{}")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--checkpoint", "int.pt"], "int.pt: body.0.weight is int64, where float32 is wanted; save the trained"),
        (["--checkpoint", "complex.pt"], "complex.pt: body.0.weight is complex64, where float32 is wanted"),
        (["--checkpoint", "sparse.pt"], "sparse.pt: body.0.weight is sparse; save"),
        (["--checkpoint", "meta.pt"], "has no values (saved from the device meta); save"),
        (["--checkpoint", "nan.pt"], "answers NaN in 2 of 2 outputs for this input; its weight body.0.weight holds NaN"),
        (["--checkpoint", "cut.pt"], "cut.pt is cut short or damaged; save it again, or fetch it again\n"),
        (["--checkpoint", "cut.safetensors"], "is no whole safetensors file"),
        (["--model", "net.py:nan"], "answers NaN in 2 of 2 outputs for this input; no weight is NaN"),
        (["--model", "net.py:none"], "scores of shape (1, 0)"),
        (["--model", "net.py:named"], "the model returned a dict of scores, without any of logits"),
        (["--model", "net.py:named", "--output", "logit"], "--output logit gives NoneType, not a tensor"),
        (["--model", "net.py:failing"], "cannot take an input, float32 of shape (1, 3, 32, 32): 'key'; give --size"),
        (["--model", "net.py:fixed", "--size", "33"], "its Linear '2' takes 3600 features and was given 3844; give --size"),
        (["--model", "net.py:four"], "its Conv2d 'body.0' takes 4 channels and was given 3; give --size, --mean"),
        (["--model", "net.py:small", "--size", "2"], "its Conv2d 'body.0' looks at 3 x 3 entries together and was given 2 x 2"),
        (["--model", "net.py:Casting"], "its Conv2d 'inner' takes float64 and was given float32; give a network of one type"),
        (["--model", "net.py:Two"], "missing 1 required positional argument: 'y'; give a function, or a module around it"),
        (["--model", "net.py:meta"], "weights have no values (1.weight is on the device meta); build it on the cpu"),
        (["--model", "net.py:leaving"], "net.py:leaving raised SystemExit: 3; legal is a function"),
        (["--model", "script.py:build"], "script.py fails when imported: SystemExit: 2; legal is a file that only defines"),
        (["--labels", "cat.png"], "cat.png is no text in UTF-8; give a text file with one name a line"),
    ],
)  # fmt: skip
def test_torchs_own_sentences_are_not_the_last_word(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    """Integers were loaded as zeros in silence; sparse and meta weights ended in a copy error of 600 characters."""
    base = ["explain", "cat.png", "--model", "net.py:small", "--size", "32", "--method", "epsilon", "--out", "out"]
    assert main([*base, *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.splitlines()[-1].startswith("lrp-plugin: ")
    assert not Path("out").exists()


def test_weights_in_half_precision_and_a_named_output_are_legal(here: Path) -> None:
    base = ["explain", "cat.png", "--size", "32", "--method", "epsilon", "--format", "json"]
    assert main([*base, "--model", "net.py:small", "--checkpoint", "half.pt"]) == 0
    assert main([*base, "--model", "net.py:named", "--output", "scores"]) == 0


def test_the_library_says_the_same() -> None:
    """Which layer, what it takes; the remedy is of the kind of input."""
    picture = torch.zeros(1, 20, 20)
    with pytest.raises(ValueError, match="its Conv2d '0' takes 3 channels and was given 1; give preprocess= with"):
        explain_image(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2)), picture)
    with pytest.raises(ValueError, match="its Linear takes 4 features and was given 5; give it as the model takes it"):
        explain_signal(nn.Linear(4, 2), torch.ones(5))
    text = nn.Sequential(nn.Embedding(5, 2), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(ValueError, match="its Embedding '0' knows the ids 0 to 4 and was given 9; give a tokenizer"):
        explain_text(text, lambda _: [1, 9], "two words")


def test_hooks_that_look_for_the_layer_are_gone_afterwards() -> None:
    model = nn.Linear(4, 2)
    with pytest.raises(ValueError, match="takes 4 features"):
        explain_signal(model, torch.ones(5))
    assert not model._forward_pre_hooks


def test_a_reader_that_has_seen_enough_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """``lrp-plugin methods | head -1`` said "Broken pipe", with status 2."""
    turned: list[tuple[int, int]] = []

    def closed(*_: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    with monkeypatch.context() as changed:
        changed.setattr("lrp_plugin.explain.methods.described_methods", closed)
        changed.setattr(os, "dup2", lambda *given: turned.append(given))
        status = main(["methods"])
    assert (status, capfd.readouterr().err, len(turned)) == (141, "", 1)
