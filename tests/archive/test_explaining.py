"""What a row says equals what the methods say, batch by batch; a broken picture is named and harms no other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from killed_archive import settings
from radiographs import write_radiographs
from torch import nn

from lrp_plugin import UnifiedLRP
from lrp_plugin.archive import Maps, Method, ModelSource, Picture, Targets
from lrp_plugin.archive.explaining import Explainer, build, method_names
from lrp_plugin.archive.items import Item, key_of, read_items
from lrp_plugin.archive.pictures import Read
from lrp_plugin.archive.pictures import read_items as read_pictures
from lrp_plugin.archive.rows import kept, packed, pooled, unpacked
from lrp_plugin.evidence import mask_share
from lrp_plugin.gradients import build_method

SIZE = (16, 16)


class Net(nn.Module):
    """Four outputs; fails on a picture that is bright all over."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool((x.detach().flatten(1).min(1).values > 0.9).any()):
            raise RuntimeError("too bright")
        if bool((x.detach().flatten(1).max(1).values < 0.01).any()):
            return self.head(self.conv(x).relu().mean((2, 3))) * float("nan")
        return self.head(self.conv(x).relu().mean((2, 3)))


def batch(count: int = 5) -> tuple[np.ndarray, list[Read]]:
    images = np.random.default_rng(0).uniform(0.05, 0.8, (count, 1, *SIZE)).astype(np.float32)
    reads = [Read(Item(key_of(str(n)), str(n), f"/{n}.png", None, (n % 4,), None), "0" * 64) for n in range(count)]
    return images, reads


def explainer(**others: object) -> Explainer:
    given = {"picture": Picture(SIZE, 1), "maps": Maps(), "batch": 8}
    return Explainer(settings("", **{**given, **others}), model=Net().eval())


def test_rows_equal_the_methods_themselves() -> None:
    images, reads = batch()
    for read in reads:
        read.mask = np.arange(SIZE[0])[:, None] + np.zeros(SIZE) < 8
    names = ("epsilon", "gamma", "saliency")
    rows = explainer(methods=tuple(Method(name) for name in names)).explain(images, reads)
    model, x = Net().eval(), torch.from_numpy(images)
    logits = model(x).detach()
    best = logits.argmax(1)
    for name in names:
        method = build_method("saliency", model) if name == "saliency" else UnifiedLRP(model, name)
        relevance = method.attribute(x, best)
        shares = mask_share(relevance, torch.from_numpy(np.stack([read.mask for read in reads]))[:, None])
        for place, row in enumerate(row for row in rows if row["method"] == name):
            assert (row["id"], row["target"], row["prediction"]) == (str(place), best[place], best[place])
            assert row["logit"] == pytest.approx(float(logits[place, best[place]]), abs=0)
            assert row["relevance"] == pytest.approx(float(relevance[place].double().sum()), abs=1e-12)
            assert row["share"] == pytest.approx(float(shares[place]), abs=1e-12)
            assert row["mask_area"] == 0.5
            wanted = relevance[place, 0].numpy()
            np.testing.assert_allclose(unpacked(row), wanted, rtol=2**-11, atol=2**-24 * np.abs(wanted).max())


def test_every_method_by_name_is_built() -> None:
    model = Net().eval()
    for name in method_names():
        assert build(Method(name), model, Picture(SIZE, 1))
    with pytest.raises(ValueError, match="unknown method 'epsilom'; legal are epsilon"):
        build(Method("epsilom"), model, Picture(SIZE, 1))
    distributed = build(Method("epsilon_plus", {"bias": "distribute"}), model, Picture(SIZE, 1))
    assert "distribute" in str(distributed.composite)


def test_targets_above_a_threshold_have_a_row_each() -> None:
    images, reads = batch()
    outputs = Net().eval()(torch.from_numpy(images)).detach()
    threshold = float(outputs.median())
    rows = explainer(targets=Targets("above", threshold, "output")).explain(images, reads)
    for place, read in enumerate(reads):
        mine = [row for row in rows if row["id"] == read.item.id]
        wanted = (outputs[place].double() > threshold).nonzero().flatten().tolist()
        assert [row["target"] for row in mine if row["method"] == "epsilon"] == wanted
        for row in mine:
            relevance = (
                UnifiedLRP(Net().eval(), composite="epsilon_plus_flat")
                if row["method"] != "epsilon"
                else UnifiedLRP(Net().eval())
            )
            alone = relevance.attribute(torch.from_numpy(images), row["target"])[place, 0].numpy()
            np.testing.assert_allclose(unpacked(row), alone, rtol=2**-10, atol=1e-6)
    none = explainer(targets=Targets("above", 1e9, "output")).explain(images, reads)
    assert [row["id"] for row in none] == [read.item.id for read in reads]
    assert all(row.get("map") is None and row["error"] is None and row["prediction"] is not None for row in none)


def test_given_targets_and_the_one_that_is_missing() -> None:
    images, reads = batch()
    reads[1].item = replace(reads[1].item, targets=None)
    reads[2].item = replace(reads[2].item, targets=(3, 0))
    reads[3].item = replace(reads[3].item, targets=(7,))
    rows = explainer(methods=(Method("epsilon"),), targets=Targets("given")).explain(images, reads)
    assert [(row["id"], row.get("target")) for row in rows] == [
        ("0", 0),
        ("1", None),
        ("2", 3),
        ("2", 0),
        ("3", None),
        ("4", 0),
    ]
    assert "no target is given" in rows[1]["error"]
    assert "target 7 is out of range: legal are 0 to 3" in rows[4]["error"]


def test_the_ledger_closes_in_every_row() -> None:
    images, reads = batch()
    rows = explainer(methods=(Method("epsilon"),), ledger=True).explain(images, reads)
    for row in rows:
        absorbed = sum(row[name] for name in ("bias", "constant", "stabilizer", "no_receiver", "other"))
        assert row["logit"] == pytest.approx(row["relevance"] + absorbed, abs=1e-5)
        assert row["bias"] != 0


@pytest.mark.parametrize("wrong", ["reading", "raises", "nan"])
def test_a_broken_picture_is_named_and_the_others_keep_their_bits(wrong: str) -> None:
    images, reads = batch()
    sound = explainer().explain(images, reads)
    if wrong == "reading":
        reads[2].error = "reading: ImageError: broken"
        images[2] = 0
    else:
        images[2] = 1.0 if wrong == "raises" else 0.0
    rows = explainer().explain(images, reads)
    (failed,) = [row for row in rows if row["error"]]
    assert failed["id"] == "2"
    assert {"reading": "ImageError", "raises": "RuntimeError: too bright", "nan": "NaN"}[wrong] in failed["error"]
    others = [{**row, "seconds": 0} for row in rows if row["id"] != "2"]
    assert others == [{**row, "seconds": 0} for row in sound if row["id"] != "2"]


def test_a_batch_of_broken_pictures_has_a_row_each() -> None:
    images, reads = batch()
    images[:] = 1.0
    rows = explainer().explain(images, reads)
    assert [row["id"] for row in rows] == [read.item.id for read in reads]
    assert all("too bright" in row["error"] for row in rows)


def test_a_model_with_one_number_for_each_example() -> None:
    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x)[:, 0]

    images, reads = batch()
    maker = Explainer(
        settings("", picture=Picture(SIZE, 1), maps=Maps(), methods=(Method("epsilon"), Method("saliency"))),
        model=One().eval(),
    )
    rows = maker.explain(images, reads)
    assert {row["target"] for row in rows} == {0}
    assert len(rows) == 10
    assert not any(row["error"] for row in rows)


def test_a_function_makes_the_model_on_every_machine(weights: str) -> None:
    with pytest.raises(ValueError, match="no function Nothing"):
        ModelSource("lrp_plugin.cxr.reference:Nothing").make()
    with pytest.raises(ValueError, match="unknown model 'resnet181'; did you mean resnet18"):
        ModelSource("resnet181").make()
    first, second = (ModelSource("lrp_plugin.cxr.reference:ReferenceCNN", weights).make() for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))
    assert not first.training


def test_pictures_are_fitted_checked_and_hashed(tmp_path: Path) -> None:
    source = write_radiographs(tmp_path, 2, size=64)
    items = [Item(**{**row, "targets": None}) for row in read_items(str(source)).to_pylist()]
    for picture in (Picture((32, 48), 1), Picture((32, 48), 3, fit="crop")):
        images, reads = read_pictures(items, picture)
        assert images.shape == (2, picture.channels, 32, 48)
        assert all(read.error is None and read.mask is not None and read.mask.shape == (32, 48) for read in reads)
        assert 0 <= images.min() < images.max() <= 1
    (tmp_path / "images" / "0.png").write_bytes(b"no picture")
    images, reads = read_pictures(items, Picture((32, 48), 1))
    assert sorted(read.error is None for read in reads) == [False, True]


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_pooling_keeps_the_sum(height: int, width: int, rows: int, columns: int) -> None:
    relevance = torch.from_numpy(np.random.default_rng(height * width).normal(size=(2, height, width)))
    made = pooled(relevance, (min(rows, height), min(columns, width)))
    assert made.shape == (2, min(rows, height), min(columns, width))
    torch.testing.assert_close(made.sum((1, 2)), relevance.sum((1, 2)), rtol=1e-12, atol=1e-12)
    block = pooled(torch.ones(1, 6, 6, dtype=torch.float64), (3, 2))
    assert torch.equal(block, torch.full((1, 3, 2), 6.0, dtype=torch.float64))


@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=20))
def test_a_map_is_kept_to_half_precision_of_its_own_scale(numbers: list[float]) -> None:
    values = np.array(numbers, np.float32)
    found = unpacked({"id": "x", **packed(values)})
    greatest = float(np.abs(values).max())
    # Rounding to 11 bits, and below 2^-14 of the greatest value to steps of 2^-24 of it; float32's own beside it.
    allowed = np.maximum(np.abs(values.astype(np.float64)) * 2**-11, greatest * 2**-25) * (1 + 1e-5) + 1e-44
    assert (np.abs(found.astype(np.float64) - values) <= allowed).all()


def test_channels_are_summed_or_kept() -> None:
    relevance = torch.randn(2, 3, 4, 4)
    np.testing.assert_allclose(kept(relevance, Maps()), relevance.double().sum(1).float().numpy())
    assert kept(relevance, Maps("keep", (2, 2))).shape == (2, 3, 2, 2)


def test_pictures_are_what_the_models_own_preprocessing_makes(tmp_path: Path) -> None:
    from lrp_plugin.archive.models import defaults_of
    from lrp_plugin.explain import Preprocessing
    from lrp_plugin.images import read_image

    source = write_radiographs(tmp_path, 1, size=64)
    items = [Item(**{**row, "targets": None}) for row in read_items(str(source)).to_pylist()]
    picture = Picture(**{**defaults_of(ModelSource("resnet18"))[0], "size": (40, 40)})
    assert (picture.crop, picture.channels) == (224 / 256, 3)
    images, _ = read_pictures(items, picture)
    own = Preprocessing(40, picture.mean, picture.std, 3, picture.crop)
    wanted = own.picture(read_image(items[0].source, mode="RGB"))
    np.testing.assert_allclose(images[0], wanted.numpy(), atol=1e-6)
    box = build(
        Method("epsilon_gamma_box"), Net().eval(), Picture((32, 32), 1, mean=(1024.0,), std=(1.0,), scale=2048.0)
    )
    assert box.composite is not None
