"""What each option of ``lrp-plugin explain`` and ``compare`` changes, and nothing else: asked for by planted faults."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lrp_plugin.cli import main
from lrp_plugin.cli.checkpoints import load_into, read_checkpoint
from lrp_plugin.cli.compare import Pictures
from lrp_plugin.cli.models import load_model
from lrp_plugin.explain import Preprocessing, explain_image
from lrp_plugin.images.splits import spread

NETWORK = """
from torch import nn

def build(num_classes=3, channels=3):
    return nn.Sequential(nn.Conv2d(channels, 4, 3, 2), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
                         nn.Linear(16, num_classes))

def grey():
    return build(channels=1)
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A picture, and a network of one's own."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("cat.png")
    Path("net.py").write_text(NETWORK)
    return tmp_path


def explained(*words: str, model: str = "net.py:build") -> tuple[Tensor, dict]:
    """The map and the facts that the command writes."""
    assert main(["explain", "cat.png", "--model", model, "--method", "epsilon", *words, "--overwrite"]) == 0
    (relevance,), (facts,) = Path("lrp-out").glob("*.npy"), Path("lrp-out").glob("*.json")
    found = torch.from_numpy(np.load(relevance)), json.loads(facts.read_text())
    relevance.unlink(), facts.unlink()
    return found


def test_mean_and_deviation_count_each_alone() -> None:
    network = load_model("net.py:build").network
    for words, preprocess in (
        (("--mean", "0.2"), Preprocessing(16, mean=0.2)),
        (("--std", "0.7"), Preprocessing(16, std=0.7)),
    ):
        found, _ = explained("--size", "16", *words, "--target", "1")
        expected = explain_image(network, "cat.png", 1, "epsilon", preprocess=preprocess)
        torch.testing.assert_close(found, expected.relevance)


def test_a_size_is_height_and_width() -> None:
    assert explained("--size", "16", "24")[0].shape == (3, 16, 24)


def test_so_many_answers_are_told() -> None:
    assert [len(explained("--size", "16", "--topk", count)[1]["top"]) for count in ("1", "2")] == [1, 2]


def test_a_grey_network_is_given_one_channel() -> None:
    """Not told by its first convolution, which this one hides."""
    Path("hidden.py").write_text(
        "from torch import nn\n\nclass Hidden(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.head = nn.Linear(16 * 16, 2)\n\n    def forward(self, x):\n        return self.head(x.flatten(1))\n"
    )
    assert explained("--size", "16", "--gray", model="hidden.py:Hidden")[0].shape == (1, 16, 16)


def test_as_many_classes_as_are_asked_for() -> None:
    assert explained("--size", "16", "--num-classes", "5", "--target", "4")[1]["target"] == 4


def test_an_untrained_network_is_the_same_each_time_and_in_evaluation_mode() -> None:
    one, other = load_model("net.py:build").network, load_model("net.py:build").network
    assert not any(module.training for module in one.modules())
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_weights_are_found_under_two_prefixes_and_none_may_be_missing() -> None:
    model = load_model("net.py:build").network
    weights = {name: value + 1 for name, value in model.state_dict().items()}
    torch.save({"state_dict": {f"model._orig_mod.{name}": value for name, value in weights.items()}}, "two.pt")
    assert load_model("net.py:build", checkpoint=Path("two.pt")).trained
    load_into(model, read_checkpoint(Path("two.pt")), Path("two.pt"))
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match="lacks 1: 4.bias"):
        load_into(model, {name: value for name, value in weights.items() if name != "4.bias"}, Path("two.pt"))


def test_a_checkpoint_runs_no_code() -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return Path.touch, (Path("ran"),)

    torch.save({"a": Evil()}, "evil.pt")
    with pytest.raises(ValueError, match="pickle of"):
        read_checkpoint(Path("evil.pt"))
    assert not Path("ran").exists()


def test_compared_pictures_are_spread_over_all_and_classes_count_from_nought() -> None:
    assert spread("abcdef", 3) == ["a", "c", "e"]
    for name in ("cat", "dog"):
        (Path("pictures") / name).mkdir(parents=True)
        Image.open("cat.png").save(Path("pictures", name, "0.png"))
    pictures = Pictures(Path("pictures"), Preprocessing(8))
    assert pictures.classes == ["cat", "dog"] and [int(pictures[k]["target"]) for k in (0, 1)] == [0, 1]
