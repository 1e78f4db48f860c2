"""``lrp-plugin explain``: any image file in, overlay, relevance and account out, or one clear line and status 2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lrp_plugin.cli import main

# The cheapest of torchvision's networks, at a small size: what is tested is the command, not the network.
SMALL = ["--model", "squeezenet1_1", "--size", "64", "--rule", "epsilon"]


def picture(kind: str) -> Image.Image:
    """A wide picture with a bright block on the left, in one of the formats that X-rays come in."""
    pixels = np.zeros((90, 131))
    pixels[20:70, 45:65] = 1.0
    pixels += 0.2 * np.random.default_rng(0).random(pixels.shape)
    pixels /= pixels.max()
    if kind == "grey 16 bit":
        return Image.fromarray((pixels * 4095).astype(np.uint16))
    grey = Image.fromarray((pixels * 255).astype(np.uint8))
    return {"grey": grey, "colour": grey.convert("RGB"), "alpha": grey.convert("RGBA"), "palette": grey.convert("P")}[
        kind
    ]


def explain(tmp_path: Path, image: Path, *more: str) -> tuple[int, Path]:
    out = tmp_path / "out"
    return main(["explain", str(image), *SMALL, "--out", str(out), *more]), out


def stored(out: Path) -> tuple[np.ndarray, dict]:
    (maps,), (facts,) = out.glob("*.npy"), out.glob("*.json")
    return np.load(maps), json.loads(facts.read_text())


@pytest.mark.parametrize("kind", ["grey", "colour", "alpha", "palette", "grey 16 bit"])
def test_every_format_is_explained_and_the_sum_is_accounted_for(tmp_path, kind):
    picture(kind).save(tmp_path / "chest.png")
    status, out = explain(tmp_path, tmp_path / "chest.png")
    assert status == 0
    relevance, facts = stored(out)
    assert relevance.shape == (3, 64, 64)
    assert np.abs(relevance).max() > 0
    assert facts["sum_of_relevance"] == pytest.approx(float(relevance.astype(float).sum()), rel=1e-4, abs=1e-6)
    absorbed = sum(facts["ledger"][name] for name in ("bias", "constant", "stabilizer", "no_receiver", "other"))
    assert facts["sum_of_relevance"] + absorbed == pytest.approx(facts["logit"], abs=1e-4)
    with Image.open(next(out.glob("*.png"))) as overlay:
        assert min(overlay.size) > 200, "a figure, not the 64 pixels themselves"


def test_sixteen_bits_are_scaled_as_eight_are(tmp_path):
    """The same scene in 12 of 16 bits must not come out black: logits agree up to the rounding of 8 bits."""
    logits = []
    for kind in ("grey", "grey 16 bit"):
        folder = tmp_path / kind.replace(" ", "-")
        folder.mkdir()
        picture(kind).save(folder / "chest.png")
        status, out = explain(folder, folder / "chest.png", "--target", "3")
        assert status == 0
        logits.append(stored(out)[1]["logit"])
    assert logits[0] == pytest.approx(logits[1], rel=0.02)


def test_the_target_and_the_rule_are_the_ones_asked_for(tmp_path):
    picture("grey").save(tmp_path / "chest.png")
    status, out = explain(tmp_path, tmp_path / "chest.png", "--target", "7", "--rule", "epsilon_plus_flat")
    facts = stored(out)[1]
    assert (status, facts["target"], facts["rule"], facts["trained"]) == (0, 7, "epsilon_plus_flat", False)
    assert {path.name for path in out.iterdir()} == {
        f"chest-squeezenet1_1-epsilon_plus_flat{ending}" for ending in (".png", ".npy", ".json")
    }, "nothing temporary stays"


def test_an_untrained_network_is_called_untrained(tmp_path, capsys):
    assert explain(tmp_path, Path("sample"))[0] == 0
    assert "UNTRAINED" in capsys.readouterr().out


def test_weights_of_a_file_are_used(tmp_path, capsys):
    from torchvision.models import squeezenet1_1

    torch.manual_seed(5)
    model = squeezenet1_1()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    status, out = explain(tmp_path, Path("sample"), "--weights", str(tmp_path / "weights.pt"), "--target", "3")
    facts = stored(out)[1]
    assert status == 0 and facts["trained"]
    from lrp_plugin.cli.images import load_image, normalized

    with torch.no_grad():
        expected = model.eval()(normalized(load_image("sample", 64))[None])[0, 3]
    assert facts["logit"] == pytest.approx(float(expected), rel=1e-4)
    assert "UNTRAINED" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("image", "more", "message"),
    [
        ("absent.png", [], "does not exist"),
        ("text.png", [], "is no picture that Pillow knows"),
        ("cut.png", [], "is broken or cut short"),
        ("chest.png", ["--model", "resnet19"], "unknown model 'resnet19'; legal are"),
        ("chest.png", ["--rule", "lrp"], "unknown rule 'lrp'; legal are epsilon"),
        ("chest.png", ["--target", "1000"], "1000"),
        ("chest.png", ["--weights", "absent.pt"], "absent.pt"),
    ],
)
def test_what_cannot_be_is_named_with_status_2_and_nothing_is_written(tmp_path, capsys, image, more, message):
    picture("grey").save(tmp_path / "chest.png")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes((tmp_path / "chest.png").read_bytes()[:800])
    status, out = explain(tmp_path, tmp_path / image, *more)
    error = capsys.readouterr().err
    assert status == 2
    assert message in error and error.startswith("lrp-plugin: ")
    assert not out.exists()


def test_a_full_disk_leaves_the_earlier_files_as_they_were(tmp_path, monkeypatch, capsys):
    picture("grey").save(tmp_path / "chest.png")
    _, out = explain(tmp_path, tmp_path / "chest.png")
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    status, _ = explain(tmp_path, tmp_path / "chest.png", "--target", "9")
    assert status == 2 and "No space left" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_the_package_runs_as_a_module() -> None:
    """``python -m lrp_plugin`` is the console script."""
    done = subprocess.run([sys.executable, "-m", "lrp_plugin", "--help"], capture_output=True, text=True, check=True)
    assert "explain" in done.stdout
