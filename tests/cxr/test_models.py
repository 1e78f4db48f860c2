from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import nn

import lrp_plugin
from lrp_plugin.cxr import CXRClassifier, ReferenceCNN, build_model, list_models

SEED_MODELS = (
    [f"resnet{n}" for n in (18, 34, 50, 101, 152)]
    + [f"densenet{n}" for n in (121, 161, 169, 201)]
    + ["vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14", "swin_t", "swin_s", "swin_b"]
)
# One of each further family; the slow test has all of them.
FAMILIES = [
    "alexnet",
    "convnext_tiny",
    "efficientnet_b0",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "mnasnet0_5",
    "mobilenet_v3_small",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "vgg11",
]


def check_on_meta(name: str, sides: tuple[int, ...]) -> None:
    """Shapes alone: the meta device computes nothing and allocates nothing."""
    with torch.device("meta"):
        model = build_model(name, 5)
        for side in sides:
            assert model.eval()(torch.zeros(2, 1, side, side)).shape == (2, 5)


def test_every_torchvision_classifier_is_offered() -> None:
    assert set(list_models()) == {"reference_cnn", *torchvision.models.list_models(module=torchvision.models)}
    assert len(list_models()) > 80


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "vit_b_16", "swin_t", *FAMILIES])
def test_families_take_grey_radiographs_of_299_pixels(name: str) -> None:
    check_on_meta(name, (299,))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in list_models() if not name.startswith("regnet")])
def test_every_model_takes_grey_radiographs_of_any_size(name: str) -> None:
    check_on_meta(name, (16, 33, 64, 128, 299))


@pytest.mark.parametrize("name", ["regnet_x_400mf", "regnet_y_400mf"])
def test_regnets_build(name: str) -> None:
    # They compute their widths with tensors, which the meta device cannot do.
    with torch.no_grad():
        assert build_model(name, 3).eval()(torch.rand(1, 1, 64, 64)).shape == (1, 3)


@pytest.mark.parametrize("name", SEED_MODELS)
def test_seeds_models_are_known(name: str) -> None:
    assert name in list_models()


@pytest.mark.parametrize("name", ["reference_cnn", "squeezenet1_1", "googlenet", "mobilenet_v3_small"])
def test_a_training_step_reaches_every_parameter(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, 3).train()
    output = model(torch.rand(2, 1, 96, 96))
    assert isinstance(output, torch.Tensor), "no auxiliary outputs while training"
    assert output.shape == (2, 3)
    output.pow(2).sum().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # A unit that no input reaches may have a zero gradient, a whole unused branch must not.
    assert len(idle) < 0.1 * len(list(model.parameters())), idle


def test_grey_equals_grey_repeated() -> None:
    torch.manual_seed(0)
    model = build_model("resnet18").eval()
    grey = torch.rand(2, 1, 64, 64)
    assert torch.equal(model(grey), model(grey.repeat(1, 3, 1, 1)))
    reference = build_model("reference_cnn").eval()
    assert torch.allclose(reference(grey), reference(grey.repeat(1, 3, 1, 1)), atol=1e-6)


def test_gradient_is_about_the_grey_picture_as_read() -> None:
    model = build_model("vit_b_32").eval()
    picture = torch.rand(1, 1, 299, 299, requires_grad=True)
    model(picture)[0, 0].backward()
    assert picture.grad is not None
    assert picture.grad.shape == (1, 1, 299, 299)
    assert (picture.grad != 0).float().mean() > 0.5


def test_pretrained_normalization_happens_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torchvision.models.get_model
    monkeypatch.setattr(torchvision.models, "get_model", lambda name, weights=None, **more: real(name, **more))
    model = build_model("resnet18", 4, "DEFAULT").eval()
    picture = torch.rand(1, 3, 64, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = model.backbone((picture - mean[:, None, None]) / std[:, None, None])
    assert torch.allclose(model(picture), expected, atol=1e-5)
    assert build_model("resnet18", 4).mean is None


def test_download_failure_names_file_and_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setattr("torch.hub.os.path.exists", lambda path: False)
    with pytest.raises(RuntimeError, match=r"resnet18.*could not be downloaded.*weights=None"):
        build_model("resnet18", 4, "DEFAULT")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"name": "resnet19"}, "did you mean resnet18"),
        ({"name": "resnet18", "num_classes": 1}, "num_classes is 1; give 2 or more"),
        ({"name": "resnet18", "weights": "IMAGENET21K"}, "legal are None, IMAGENET1K_V1"),
        ({"name": "reference_cnn", "weights": "DEFAULT"}, "no pretrained weights"),
        ({"name": "vit_b_16", "input_size": 128}, "exactly 224"),
        ({"name": "inception_v3", "input_size": 32}, "at least 75"),
    ],
)
def test_illegal_arguments_tell_the_legal_ones(arguments: dict, told: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=told):
        build_model(**arguments)


@pytest.mark.parametrize("shape", [(1, 64, 64), (2, 2, 64, 64), (64, 64)])
def test_wrong_shapes_are_shown(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(N, 1, H, W\)"):
        build_model("reference_cnn")(torch.zeros(shape))


def test_chosen_input_size_is_used() -> None:
    seen = []
    model = build_model("reference_cnn", input_size=48)
    model.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    model(torch.zeros(1, 1, 100, 80))
    assert seen == [(1, 1, 48, 48)]


def test_repr_shows_the_layers() -> None:
    text = repr(build_model("reference_cnn"))
    assert "Conv2d" in text
    assert "Linear(in_features=64, out_features=4" in text


def test_reference_net_is_piecewise_linear_and_small() -> None:
    net = ReferenceCNN()
    allowed = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.Linear)
    leaves = [m for m in net.modules() if not list(m.children())]
    assert all(isinstance(m, allowed) for m in leaves)
    assert sum(p.numel() for p in net.parameters()) < 200_000


def test_classifier_wraps_any_net() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    assert CXRClassifier(net, "own", 2, channels=1, input_size=8)(torch.rand(3, 3, 20, 20)).shape == (3, 2)


def test_each_part_imports_only_what_it_needs() -> None:
    code = (
        "import sys, lrp_plugin\n"
        "assert not [m for m in sys.modules if m.startswith('lrp_plugin.cxr')], 'core'\n"
        "import lrp_plugin.cxr\n"
        "assert not {'torchmetrics', 'pydicom', 'openpyxl'} & set(sys.modules), 'cxr'"
    )
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_the_rooms_of_pictures_import_one_way() -> None:
    """PyHealth's spelling knows the X-ray module, which knows the synthetic radiographs; never the other way round."""
    root, rooms = Path(lrp_plugin.__file__).parent, ("pyhealth", "cxr", "synthetic", "images")
    wrong = [
        f"{path.relative_to(root)} imports {above}"
        for place, room in enumerate(rooms)
        for path in sorted((root / room).rglob("*.py"))
        for above in rooms[:place]
        if re.search(rf"^\s*(from|import) lrp_plugin(\.| import .*\b){above}\b", path.read_text(), re.MULTILINE)
    ]
    assert not wrong
