"""What an explanation holds on a case small enough to write down: each of these was asked for by a planted fault."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from lrp_plugin import Explanation, Preprocessing, explain_image, explain_signal, explain_table, explain_text
from lrp_plugin.explain import family_of
from lrp_plugin.explain.names import names_of, read_labels, target_number
from lrp_plugin.explain.preprocessing import preprocessing_of

PLAIN = Preprocessing((2, 3), 0.0, 1.0)


class Fixed(nn.Module):
    """The logits given, whatever the picture; its first value counts a little, so that there is something to explain."""

    def __init__(self, *logits: float, end: nn.Module | None = None) -> None:
        super().__init__()
        self.logits, self.end = torch.tensor(logits), end or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.logits + 1e-3 * x[:, 0, 0, 0, None])


def answered(*logits: float, end: nn.Module | None = None, **options: object) -> Explanation:
    return explain_image(
        Fixed(*logits, end=end).eval(), np.zeros((2, 3, 3), np.uint8), preprocess=PLAIN, method="zero", bias="distribute",
        **options,
    )  # fmt: skip


def shown(picture: object) -> Tensor:
    """The network's input, for a network that takes a picture of two rows and three columns as it is."""
    return explain_image(Fixed(1.0, 2.0).eval(), picture, preprocess=PLAIN, method="saliency").input


def test_the_middle_of_a_wide_picture_is_seen_undistorted() -> None:
    image = torch.arange(8.0).expand(3, 4, 8) / 8
    assert torch.equal(Preprocessing(4).picture(image), image[:, :, 2:6])


def test_the_interpolation_is_the_one_asked_for_and_stays_between_black_and_white() -> None:
    edge = torch.tensor([0.0, 0, 1, 1]).expand(1, 4, 4)
    nearest, linear, cubic = (
        Preprocessing(16, 0.5, 0.5, channels=1, interpolation=how).picture(edge)
        for how in ("nearest", "bilinear", "bicubic")
    )
    assert nearest.unique().tolist() == [0, 1]
    assert len(linear.unique()) > 2 and not torch.allclose(linear, cubic)
    assert cubic.min() == 0 and cubic.max() == 1, "bicubic overshoots at an edge"


def test_a_network_s_first_convolution_says_how_many_channels() -> None:
    for channels in (1, 3):
        assert preprocessing_of(nn.Sequential(nn.Conv2d(channels, 4, 3))).channels == channels


def test_inception_alone_of_torchvisions_classifiers_is_given_299_pixels() -> None:
    for name, size in (("Inception3", 299), ("ResNet", 224)):
        kind = type(name, (nn.Module,), {"__module__": "torchvision.models.one"})
        assert preprocessing_of(kind()).height_width == (size, size)


def test_a_deviation_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="std is 0"):
        Preprocessing(8, std=0.0)


def test_the_best_answers_come_first_and_the_logit_is_the_explained_one_s() -> None:
    found = answered(0.5, 3.0, 1.5, target=2, topk=2)
    assert [(one.target, one.logit) for one in found.top] == [(1, 3.0), (2, 1.5)]
    assert found.target == 2 and found.logit == 1.5


@pytest.mark.filterwarnings("ignore:the model seems to end in a softmax")
@pytest.mark.parametrize(
    ("logits", "end", "expected"),
    [((0.5, 3.0), None, torch.tensor([0.5, 3.0]).softmax(0)[1]), ((0.5,), None, torch.tensor(0.5).sigmoid()),
     ((0.5, 3.0), nn.Softmax(1), torch.tensor([0.5, 3.0]).softmax(0)[1])],
    ids=["several logits", "one logit", "probabilities"],
)  # fmt: skip
def test_probabilities_by_what_the_outputs_are(logits: tuple[float, ...], end: nn.Module, expected: Tensor) -> None:
    assert answered(*logits, end=end).probability == pytest.approx(float(expected), abs=1e-6)


def test_an_account_is_made_unless_it_is_refused() -> None:
    assert answered(1.0, 2.0).ledger is not None
    assert answered(1.0, 2.0, ledger=False).ledger is None


def test_a_white_byte_is_one_and_counts_of_a_detector_are_stretched() -> None:
    white = np.full((2, 3, 3), 255, np.uint8)
    white[0, 0] = 51
    assert shown(white)[0, 0, :2].tolist() == pytest.approx([0.2, 1], abs=1e-7)
    counts = np.array([[100.0, 150, 200], [300, 400, 500]])
    expected = (torch.from_numpy(counts).float() - 100) / 400
    torch.testing.assert_close(shown(counts), expected.expand(3, 2, 3))


def test_a_file_of_deep_greys_is_stretched_to_black_and_white(tmp_path: Path) -> None:
    Image.fromarray(np.array([[100, 150, 200], [300, 400, 500]], np.uint16)).save(tmp_path / "film.tif")
    found = shown(tmp_path / "film.tif")
    assert (float(found.min()), float(found.max())) == (0, 1)


def by_a_function(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image) / 255).permute(2, 0, 1).float()


@pytest.mark.parametrize("preprocess", [PLAIN, by_a_function], ids=["ours", "a function"])
def test_a_pil_image_is_turned_upright_as_its_file_is(tmp_path: Path, preprocess: object) -> None:
    lying = Image.fromarray(np.arange(18, dtype=np.uint8).reshape(3, 2, 3))  # three rows of two
    exif = lying.getexif()
    exif[0x0112] = 6  # turn by 90 degrees
    lying.save(tmp_path / "phone.png", exif=exif)
    upright = torch.from_numpy(np.rot90(np.asarray(lying), -1).copy()).permute(2, 0, 1) / 255
    for given in (tmp_path / "phone.png", Image.open(tmp_path / "phone.png")):
        found = explain_image(Fixed(1.0, 2.0).eval(), given, preprocess=preprocess, method="saliency")
        torch.testing.assert_close(found.input, upright)


def test_of_a_segmentation_the_largest_class_that_is_not_background_is_explained() -> None:
    class Classes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            places = torch.tensor([[0, 0, 0], [2, 2, 1]])
            return nn.functional.one_hot(places, 3).permute(2, 0, 1)[None].float() * (1 + x.mean())

    found = explain_image(Classes().eval(), np.zeros((2, 3, 3), np.uint8), preprocess=PLAIN, method="zero")
    assert found.kind == "segmentation" and found.target == 2


def test_names_by_any_case_and_in_the_order_of_the_outputs() -> None:
    assert target_number("CAT", ["Dog", "Cat"], 2) == 1
    assert read_labels({1: "cat", 0: "dog"}) == ["dog", "cat"]


def test_names_of_another_number_of_outputs_are_not_used() -> None:
    model = nn.Linear(2, 3)
    model.class_names = ["a", "b"]
    assert names_of(model, 3) is None and names_of(model, 2) == ["a", "b"]


def test_a_softmax_at_the_end_of_products_is_no_attention() -> None:
    assert family_of(["matmul", "relu", "matmul", "softmax"]) == "dense"
    assert family_of(["matmul", "softmax", "matmul"]) == "transformer"


def test_numbers_that_are_not_finite_and_names_that_do_not_fit_are_refused() -> None:
    model = nn.Linear(3, 2).eval()
    with pytest.raises(ValueError, match=r"row of shape \(3,\) is empty, or holds NaN"):
        explain_table(model, [1.0, np.nan, 2.0])
    with pytest.raises(ValueError, match="3 names for a signal of shape"):
        explain_signal(nn.Flatten().eval(), np.ones((2, 5)), channels=["a", "b", "c"])
    fits = explain_signal(nn.Flatten().eval(), np.ones((2, 5)), 0, "zero", channels=["a", "b"])
    assert fits.view["channels"] == ["a", "b"]


def test_a_table_s_own_names_are_shown() -> None:
    found = explain_table(nn.Linear(2, 2).eval(), {"age": 1.0, "dose": 2.0}, 0, "zero", bias="distribute")
    assert found.view["names"] == ["age", "dose"] and found.input.tolist() == [1, 2]


class Counting(nn.Module):
    """A language model that counts: after token i comes i + 1, with the logit i + 2."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding.from_pretrained(torch.eye(6)), nn.Linear(6, 6, bias=False)
        self.head.weight.data = torch.diag(torch.arange(2.0, 7), -1)
        self.eval()

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embedding(ids))


def test_each_generated_token_is_explained_at_the_place_that_said_it() -> None:
    def read(text: str) -> list[int]:
        return [int(word) for word in text.split()]

    found = explain_text(Counting(), read, "0 1", generate=2, method="zero")
    assert found.view["generated"] == ["2", "3"] and found.input.tolist() == [0, 1, 2]
    torch.testing.assert_close(found.relevance, torch.tensor([[0.0, 3, 0], [0, 0, 4]]))
    next_one = explain_text(Counting(), read, "0 1", method="zero")
    assert next_one.target == (1, 2) and next_one.top[0].target == 2 and next_one.logit == 3


def test_the_share_is_of_the_logit_that_reached_the_input_summed_in_double() -> None:
    model = nn.Linear(2, 1).eval()
    model.weight.data, model.bias.data = torch.tensor([[1.0, 2.0]]), torch.tensor([5.0])
    found = explain_table(model, [1.0, 2.0], 0, "zero", probabilities="none")
    assert (found.logit, found.total, found.share) == (10, 5, 0.5)
    found.relevance = torch.ones(3001, dtype=torch.float16)
    assert found.total == 3001, "half precision has no odd numbers above 2048"
