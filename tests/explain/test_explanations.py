"""One call from a model and its input to an explanation: what it holds, what it shows, what it says no to."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from lrp_plugin import (
    Explanation,
    Preprocessing,
    UnifiedLRP,
    explain_image,
    explain_signal,
    explain_table,
    explain_text,
    explain_volume,
)
from lrp_plugin.explain import FAMILIES, family_of
from lrp_plugin.explain.names import target_number

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
OWN = Preprocessing(32, 0.4, 0.2)


def network(channels: int = 3, classes: int = 4, dimensions: int = 2) -> nn.Module:
    torch.manual_seed(0)
    conv, pool = [
        (nn.Conv1d, nn.AdaptiveAvgPool1d),
        (nn.Conv2d, nn.AdaptiveAvgPool2d),
        (nn.Conv3d, nn.AdaptiveAvgPool3d),
    ][dimensions - 1]
    return nn.Sequential(conv(channels, 8, 3), nn.ReLU(), pool(1), nn.Flatten(), nn.Linear(8, classes)).eval()


class Sentences(nn.Module):
    """Ids in, two logits out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embedding = nn.Embedding(20, 6)
        self.recurrent = nn.LSTM(6, 8, batch_first=True)
        self.head = nn.Linear(8, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.recurrent(self.embedding(ids))[0][:, -1])


def letters(text: str) -> list[int]:
    return [len(word) for word in text.split()]


KINDS: dict[str, Callable[..., Explanation]] = {
    "image": lambda **kw: explain_image(network(), PIXELS, preprocess=OWN, **kw),
    "text": lambda **kw: explain_text(Sentences().eval(), letters, "a quite remarkable little book", **kw),
    "signal": lambda **kw: explain_signal(
        network(2, dimensions=1), np.sin(np.arange(100)).reshape(2, 50), rate=50, **kw
    ),
    "table": lambda **kw: explain_table(nn.Linear(3, 2).eval(), {"age": 0.3, "dose": -1.0, "weight": 2.0}, **kw),
    "volume": lambda **kw: explain_volume(network(1, dimensions=3), np.random.default_rng(0).random((6, 7, 8)), **kw),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def quiet() -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "only .* of the logit reached")
        yield


@every_kind
def test_the_account_closes_and_the_figures_are_written(kind, tmp_path):
    found = KINDS[kind]()
    assert found.kind == kind and found.ledger is not None
    assert found.total + float(found.ledger.absorbed[0]) == pytest.approx(found.logit, rel=1e-4, abs=1e-5)
    assert found.share == pytest.approx(found.total / found.logit)
    for name in ("a.png", "a.svg", "a.npy", "a.json", "a.html"):
        assert found.save(tmp_path / name).stat().st_size > 50
    assert np.array_equal(np.load(tmp_path / "a.npy"), found.relevance.numpy())
    facts = json.loads((tmp_path / "a.json").read_text())
    assert facts["logit"] == found.logit and facts["ledger"]["gap"] == pytest.approx(0, abs=1e-4)
    page = (tmp_path / "a.html").read_text()
    assert "reached the input" in page and found.title in page and found.method in page
    if kind == "text":  # words are words: once, and no picture of them besides
        assert page.count(">remarkable<") == 1 and "<img" not in page and "linear-gradient" in page
    else:
        assert page.count("data:image/png;base64,") == 1 and "alt=" in page
    assert Image.open(tmp_path / "a.png").width > 600


@every_kind
def test_it_is_what_unified_lrp_says_and_the_model_is_left_alone(kind):
    found = KINDS[kind](target=1, method="epsilon")
    assert found.target == 1 and found.method == "epsilon"
    model = {"image": network(), "text": Sentences().eval(), "signal": network(2, dimensions=1),
             "table": None, "volume": network(1, dimensions=3)}[kind]  # fmt: skip
    if model is None:  # nn.Linear draws new weights each time
        return
    inputs = found.input[None] if kind == "text" else found.input[None].float()
    expected = UnifiedLRP(model, "epsilon").attribute(inputs, target=1)[0]
    assert torch.allclose(found.relevance, expected, atol=1e-6)


@pytest.mark.parametrize("form", ["path", "pil", "bytes", "unit floats", "channels first", "grey"])
def test_every_form_of_a_picture_is_read_alike(form, tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    grey = np.asarray(Image.fromarray(PIXELS).convert("L"))
    given = {
        "path": tmp_path / "a.png", "pil": Image.fromarray(PIXELS), "bytes": PIXELS, "unit floats": PIXELS / 255,
        "channels first": np.moveaxis(PIXELS, 2, 0), "grey": grey,
    }[form]  # fmt: skip
    found = explain_image(network(), given, 2, preprocess=OWN)
    like = np.repeat(grey[..., None], 3, 2) if form == "grey" else PIXELS
    expected = explain_image(network(), like, 2, preprocess=OWN)
    assert torch.allclose(found.relevance, expected.relevance, atol=1e-6)
    assert found.relevance.shape == (3, 32, 32)


def test_a_float_tensor_is_the_networks_own_input():
    inputs = torch.randn(3, 32, 32)
    found = explain_image(network(), inputs, 0, "zero")
    assert torch.equal(found.input, inputs)
    assert torch.allclose(found.relevance, UnifiedLRP(network(), "zero").attribute(inputs[None], target=0)[0])


def test_a_function_may_preprocess():
    found = explain_image(network(), PIXELS, preprocess=lambda image: torch.full((3, 20, 20), float(image.size[0])))
    assert found.input.unique().tolist() == [60.0]


def test_preprocessing_there_and_back():
    image = torch.rand(3, 50, 70)
    chosen = Preprocessing((24, 32), (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), crop=0.8, scale=255.0)
    picture = chosen.picture(image)
    assert picture.shape == (3, 24, 32)
    assert torch.allclose(chosen.undone(chosen.inputs(picture)), picture, atol=1e-5)
    low, high = chosen.bounds
    assert torch.allclose(high[0, 1], torch.tensor((255 - 0.2) / 0.6))
    assert float(chosen.inputs(picture).max()) <= float(high.max()) and float(low.max()) < 0


def test_torchvisions_models_bring_size_and_names():
    import torchvision

    model = torchvision.models.squeezenet1_1(weights=None).eval()
    found = explain_image(model, PIXELS, "tabby", "epsilon", ledger=False)
    assert (found.target, found.target_name, found.relevance.shape) == (281, "tabby", (3, 224, 224))


@pytest.mark.parametrize(
    ("operations", "family"),
    [
        (["conv2d", "relu", "linear"], "convolutional"),
        (["conv1d", "lstm", "linear"], "recurrent"),
        (["embedding", "linear", "scaled_dot_product_attention"], "transformer"),
        (["conv2d", "matmul", "softmax", "matmul"], "vision transformer"),
        (["conv2d", "linear", "softmax"], "convolutional"),
        (["linear", "relu"], "dense"),
    ],
)
def test_auto_follows_the_family(operations, family):
    assert family_of(operations) == family and family in FAMILIES


def test_auto_is_the_families_method():
    assert KINDS["image"]().method == "epsilon_plus_flat"
    assert KINDS["text"]().method == "recurrent"
    assert KINDS["table"]().method == "epsilon"


def test_a_map_with_little_of_the_logit_says_so_once_and_names_the_remedy():
    model = network()
    with torch.no_grad():
        model[0].bias.fill_(50.0)
    with pytest.warns(UserWarning, match=r'of the logit reached the input, .* went to biases.*bias="distribute"'):
        found = explain_image(model, PIXELS, 1, "epsilon", preprocess=OWN)
    assert any("--bias distribute" in note for note in found.notes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = explain_image(model, PIXELS, 1, "epsilon", preprocess=OWN, bias="distribute")
    assert abs(whole.share) > abs(found.share) and not whole.notes


def test_a_blank_map_is_named():
    model = network()
    nn.init.zeros_(model[-1].weight), nn.init.zeros_(model[-1].bias)
    assert "blank" in explain_image(model, PIXELS, preprocess=OWN).notes[0]


def test_one_evaluation_mode_for_all_passes_and_one_warning_of_it():
    model = network().train()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        explain_image(model, PIXELS, preprocess=OWN)
    assert sum("training mode" in str(one.message) for one in caught) == 1
    assert model.training


def test_gradient_methods_keep_no_account():
    found = explain_image(network(), PIXELS, method="saliency", preprocess=OWN)
    assert found.ledger is None and found.share is None and float(found.relevance.min()) >= 0


def test_segmentation_explains_the_region_it_gave_the_class():
    torch.manual_seed(0)
    model = nn.Conv2d(3, 3, 3, padding=1).eval()
    found = explain_image(model, PIXELS, preprocess=OWN, method="zero")
    with torch.no_grad():
        scores = model(found.input[None])[0]
    region = scores.argmax(0) == found.target
    assert found.kind == "segmentation" and torch.equal(found.view["region"], region)
    assert found.logit == pytest.approx(float(scores[found.target][region].mean()), rel=1e-5)
    assert found.total + float(found.ledger.absorbed[0]) == pytest.approx(found.logit, abs=1e-5)
    assert found.plot().get_axes()


class Boxes(nn.Module):
    """A detector of torchvision's form: two boxes, scores from the picture."""

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        return [
            {"boxes": torch.tensor([[1.0, 2, 9, 8], [10, 10, 30, 20]]), "labels": torch.tensor([1, 2]),
             "scores": torch.stack([0.01 * image.mean(), 0.02 * image[:, :16].sum() / 1000])}
            for image in images
        ]  # fmt: skip


def test_detection_explains_the_box_by_rank():
    found = explain_image(Boxes().eval(), np.full((32, 32, 3), 200, np.uint8), preprocess=Preprocessing(32, 0.0, 1.0),
                          labels=["", "cat", "dog"], method="zero")  # fmt: skip
    assert found.kind == "detection" and found.view["box"] == [10, 10, 30, 20]
    assert found.target_name.startswith("dog") and found.total == pytest.approx(found.logit, rel=1e-5)
    assert not bool(found.relevance[:, 16:].any())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: explain_image(network().state_dict(), PIXELS), ValueError, "load_state_dict"),
        (lambda: explain_image(network(), "absent.png"), ValueError, "absent.png"),
        (lambda: explain_image(network(), 3), TypeError, "give a file"),
        (lambda: explain_image(network(), PIXELS, 7, preprocess=OWN), ValueError, "0 to 3"),
        (lambda: explain_image(network(), PIXELS, "cat", preprocess=OWN), ValueError, "have none"),
        (lambda: explain_image(network(), PIXELS, "cot", preprocess=OWN, labels=list("abc") + ["cat"]), ValueError,
         "did you mean cat"),
        (lambda: explain_image(network(), PIXELS, preprocess=OWN, labels=["a"]), ValueError, "1 names for 4"),
        (lambda: explain_image(network(), PIXELS, method="epsilonplus", preprocess=OWN), ValueError, "epsilon_plus"),
        (lambda: explain_image(network(), PIXELS, method="arras", bias="distribute", preprocess=OWN), ValueError, "arras"),
        (lambda: explain_text(Sentences(), letters, ""), ValueError, "no tokens"),
        (lambda: explain_signal(network(2, dimensions=1), np.zeros((1, 2, 50))), ValueError, "(C, T)"),
        (lambda: explain_table(nn.Linear(3, 2), [1.0, np.nan, 2.0]), ValueError, "NaN"),
        (lambda: explain_table(nn.Linear(3, 2), [1.0, 2.0, 2.0], names=["a"]), ValueError, "1 names for 3"),
        (lambda: explain_volume(network(1, dimensions=3), np.zeros((3, 3))), ValueError, "(D, H, W)"),
        (lambda: Preprocessing(0), ValueError, "1 pixel"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error) as raised, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call()
    assert message in str(raised.value)


def test_targets_by_name_and_number():
    assert target_number("Cat", ["dog", "cat"], 2) == 1 and target_number("1", None, 2) == 1
    assert target_number(-1, None, 4) == 3 and target_number(None, None, 4) is None
