"""No option of the command line is passed over in silence; what cannot be is said before the work, in its own words."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from lrp_plugin import explain_image
from lrp_plugin.cli import main
from lrp_plugin.images import read_image

NETWORKS = """
import torch
from torch import nn
from torchvision.models import VisionTransformer

def small(num_classes=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, num_classes))

def deep(): return nn.Sequential(nn.Conv3d(3, 4, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 2))
def dense(): return nn.Conv2d(3, 4, 1)
def seer(): return VisionTransformer(32, 16, 1, 2, 8, 8, num_classes=2)
"""
SMALL = ["--model", "net.py:small", "--size", "16"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures, a folder of them for each of two classes, networks of one's own."""
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NETWORKS)
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("cat.png")
    for kind in ("cat", "dog"):
        Path("data", kind).mkdir(parents=True)
        for number in range(2):
            shutil.copy("cat.png", Path("data", kind, f"{number}.png"))
    torch.save({"0.weight": torch.zeros(2, 3, 3, 3), "0.bias": torch.zeros(2), "4.weight": torch.zeros(3, 8),
                "4.bias": torch.zeros(3)}, "narrow.pt")  # fmt: skip
    torch.save({}, "empty.pt")
    Path("twice.txt").write_text("cat\ndog\ncat\n")
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line of a command that is refused with status 2 before it writes anything."""
    capsys.readouterr()
    assert main([*words, "--out", "out"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("lrp-plugin: ") and error.count("\n") == 1 and not Path("out").exists()
    return error.removeprefix("lrp-plugin: ").rstrip("\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "saliency", "--bias", "distribute"],
         "saliency is a gradient method and takes no --bias distribute; leave it away, or choose a rule"),
        (["--labels", "twice.txt", "--target", "Cat"], "target 'Cat' names the outputs 0, 2; give the number"),
        (["--target", "cat"], "give a number from 0 to 2, or the classes' names by --labels"),
        (["--labels", "a,b"], "2 names for 3 outputs; give one for each by --labels"),
        (["--device", "cuda:99"], "--device 'cuda:99': there is none of this name; legal here are "),
        (["--device", ""], "--device '': there is none of this name; legal here are "),
        (["--checkpoint", "narrow.pt"], "0.weight has shape (2, 3, 3, 3), Sequential's (4, 3, 3, 3); is it another --model?"),
        (["--checkpoint", "empty.pt"], "empty.pt holds no weights (keys none); legal is a state dict"),
        (["--model", "net.py:seer"], "takes pictures of 32 x 32 pixels and was given 16 x 16; give --size"),
        (["--model", "net.py:deep"], "its Conv3d '0' takes 5 dimensions and was given 4; explain_volume gives as many"),
    ],
)  # fmt: skip
def test_explain_refuses_in_its_own_words(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert message in refused(capsys, "explain", "cat.png", *SMALL, *words)


def test_a_bias_among_several_methods_is_the_rules(capsys: pytest.CaptureFixture[str]) -> None:
    """The gradient method's file was called by a bias that it does not have."""
    words = ["--method", "saliency", "zplus", "--bias", "ignore", "--target", "1", "--format", "json", "--out", "out"]
    assert main(["explain", "cat.png", *SMALL, *words]) == 0
    stem = "cat-png-small-1"
    assert {path.name for path in Path("out").iterdir()} == {
        f"{stem}-saliency.json", f"{stem}-zplus-ignore.json", f"{stem}-comparison.png"
    }  # fmt: skip
    with pytest.raises(ValueError, match="saliency is a gradient method and takes no bias='ignore'"):
        explain_image(
            nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.ones(3, 2, 2), method="saliency", bias="ignore"
        )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "2"], "its Conv2d '0' looks at 3 x 3 entries together and was given 2 x 2; give --size"),
        (["--model", "net.py:seer"], "takes pictures of 32 x 32 pixels and was given 16 x 16; give --size"),
        (["--model", "net.py:dense"], "dense returned scores of shape (1, 4, 16, 16) for one picture; legal is"),
        (["--num-classes", "1"], "data has 2 subfolders, small 1 outputs; give one for each output, in their order, or "
         "--num-classes 2"),
        (["--patch", "16"], "--patch 16: one patch covers the whole input of 16 x 16 pixels"),
    ],
)  # fmt: skip
def test_compare_and_recommend_look_at_one_picture_before_the_work(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    """Every method failed in turn, in torch's words, and what was left refused the next, right call."""
    for command in ("compare", "recommend"):
        assert message in refused(capsys, command, "data", *SMALL, *words, "--no-progress")


def test_what_is_removed_may_be_replaced_by_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    """The error named "a value" as legal, and "0.5" was refused as a name."""
    words = ["--replacement", "0.5", "--metrics", "srg", "--methods", "epsilon", "--no-progress", "--out", "out"]
    assert main(["compare", "data", *SMALL, *words]) == 0 and Path("out/comparison.csv").exists()


def test_measures_of_masks_and_a_single_picture_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(capsys, "compare", "data", *SMALL, "--metrics", "mask_share", "--no-progress")
    assert told == "metric 'mask_share' needs masks: give a run folder of 'cxr train', or another metric"
    assert refused(capsys, "recommend", "data", *SMALL, "--limit", "1").startswith("1 picture is too few")


def test_deep_greys_are_compared_as_they_are_explained() -> None:
    """They were nearly black in ``compare``: 12 bits in a file of 16."""
    from lrp_plugin.cli.compare import Pictures
    from lrp_plugin.explain import Preprocessing

    for kind in ("cat", "dog"):
        Image.fromarray(np.array([[100, 4000]], np.uint16)).save(Path("data", kind, "0.png"))
    plain = Preprocessing((1, 2), 0.0, 1.0, channels=1)
    shown = Pictures(Path("data"), plain)[0]["inputs"]
    torch.testing.assert_close(shown, read_image("data/cat/0.png", stretch=True))
