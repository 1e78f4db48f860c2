"""Chunk by chunk, without Ray: a file is whole and this archive's, or named; counts, filters and pictures are what they say."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from by_hand import explain_by_hand
from killed_archive import settings
from PIL import Image
from radiographs import write_radiographs
from torch import nn

from lrp_plugin.archive import Archive, Maps, Method, Picture, Targets, chunks, status, verify
from lrp_plugin.archive.explaining import Explainer, build
from lrp_plugin.archive.items import Item
from lrp_plugin.archive.items import read_items as read_list
from lrp_plugin.archive.manifest import Manifest
from lrp_plugin.archive.pictures import Read, read_items
from lrp_plugin.archive.state import Progress, progress_of
from lrp_plugin.archive.work import batches
from lrp_plugin.cli import main
from lrp_plugin.cxr.reference import ReferenceCNN


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_radiographs(tmp_path_factory.mktemp("data"), 9, size=32)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, source: Path, weights: str) -> Path:
    (source.parent / "images" / "8.png").write_bytes(b"no picture")
    archive = tmp_path_factory.mktemp("made") / "archive"
    explain_by_hand(source, archive, settings(weights, picture=Picture((32, 32), 1), maps=Maps()))
    return archive


@pytest.fixture
def copy(tmp_path: Path, made: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def rewrite(
    url: Path, chunk: int, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]], archive: str = ""
) -> None:
    """A chunk's file made anew from changed rows, whole and with a stamp."""
    with chunks.opened(str(url), chunk) as file:
        rows, stamp = file.read().to_pylist(), chunks.stamp_of(file)
    content, _ = chunks.encode(change(rows), archive or stamp.archive, chunk, stamp.versions)
    chunks.write(str(url), chunk, content)


def test_counts_are_of_whole_files_and_failed_items_are_done(copy: Path) -> None:
    assert verify(str(copy), sample=3).whole
    progress = status(str(copy)).progress
    assert (progress.items, progress.done, progress.failed, progress.left) == (9, 9, 1, 0)
    assert (
        sum(
            stamp.failed
            for stamp in chunks.look(str(copy), Manifest.read(str(copy)).archive, [4, 4, 1]).stamps.values()
        )
        == 1
    )
    (copy / chunks.name_of(1)).unlink()
    progress = status(str(copy)).progress
    assert (progress.done, progress.left) == (5, 4)
    assert verify(str(copy), sample=0).missing == [1]


def test_a_file_that_lacks_items_or_is_another_archive_s_is_not_done(copy: Path) -> None:
    rewrite(copy, 0, lambda rows: rows[2:])
    rewrite(copy, 1, lambda rows: rows, archive="another")
    found = status(str(copy))
    assert found.progress.done == 1
    assert any("holds 3 of its 4 items" in one for one in found.damaged)
    assert any("belongs to another archive" in one for one in found.damaged)
    assert len(verify(str(copy), sample=0).problems) == 2


def test_a_map_or_a_source_that_is_another_one_is_named(copy: Path, source: Path, weights: str) -> None:
    def exchanged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        whole = [row for row in rows if row["map"] is not None]
        whole[0]["map"], whole[-2]["map"] = whole[-2]["map"], whole[0]["map"]
        return rows

    rewrite(copy, 0, exchanged)
    problems = verify(str(copy), sample=9).problems
    assert len(problems) == 2 and all("explained again, the map differs by" in one for one in problems)
    assert not verify(str(copy), sample=0).problems
    picture = source.parent / "images" / "0.png"
    before = picture.read_bytes()
    try:
        Image.new("L", (32, 32)).save(picture)
        assert any(
            "'p0' changed since it was explained" in one for one in verify(str(copy), sample=0, sources=True).problems
        )
    finally:
        picture.write_bytes(before)


def test_filters_hold_both_ends_and_tell_failed_from_sound(made: Path) -> None:
    archive = Archive(str(made))
    table = archive.filter().to_arrow(["id", "share", "error"]).to_pylist()
    shares = sorted({row["share"] for row in table if row["share"] is not None})
    assert len(shares) > 4
    low, high = shares[1], shares[-2]
    found = {row["share"] for row in archive.filter(share=(low, high)).to_arrow(["share"]).to_pylist()}
    assert found == set(shares[1:-1])
    assert [one.id for one in archive.filter(failed=True)] == ["p8"]
    sound = [one.id for one in archive.filter(failed=False)]
    assert "p8" not in sound and len(sound) == 8


def test_the_speed_is_of_what_was_made_between_the_first_and_the_last_file() -> None:
    class Plan:
        def __len__(self) -> int:
            return 100

    stamps = {k: chunks.Stamp("a", k, 10, 1, 1.0, 1000.0 + 20 * k, {}) for k in range(4)}
    progress = progress_of(Plan(), stamps)  # type: ignore[arg-type]
    # 30 items in the 60 s after the first file: 2 s each, 60 left.
    assert progress == Progress(100, 40, 4, 120.0)


def test_batches_cover_a_chunk() -> None:
    assert batches([None] * 7, 3) == [slice(0, 3), slice(3, 6), slice(6, 7)]  # type: ignore[list-item]
    assert batches([None] * 6, 3) == [slice(0, 3), slice(3, 6)]  # type: ignore[list-item]


def read_one(tmp_path: Path, pixels: np.ndarray, mask: np.ndarray, picture: Picture) -> tuple[np.ndarray, np.ndarray]:
    for name, values in (("x", pixels), ("mask", mask)):
        Image.fromarray(values.astype(np.uint8)).save(tmp_path / f"{name}.png")
    images, (read,) = read_items([Item(0, "x", f"{tmp_path}/x.png", None, None, f"{tmp_path}/mask.png")], picture)
    assert read.error is None and read.mask is not None
    return images[0], read.mask


def test_a_mask_keeps_whole_pixels_and_is_inside_from_half_of_full_scale(tmp_path: Path) -> None:
    mask = np.array([[0, 100, 0], [0, 255, 0], [127, 128, 0]])
    _, found = read_one(tmp_path, mask, mask, Picture((4, 4), 1))
    # Nearest neighbour takes rows and columns 0, 1, 1, 2; bilinear would leave nothing of the middle.
    assert found.tolist() == [
        [False] * 4,
        [False, True, True, False],
        [False, True, True, False],
        [False, True, True, False],
    ]


def test_a_crop_keeps_proportions_and_the_middle(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 255, 64), (16, 1))
    image, mask = read_one(tmp_path, ramp, ramp, Picture((16, 16), 1, fit="crop"))
    assert image[0, 0] == pytest.approx(np.linspace(24, 39, 16) / 63, abs=0.01)
    assert mask[0].tolist() == [False] * 8 + [True] * 8
    half, _ = read_one(tmp_path, ramp, ramp, Picture((16, 16), 1, fit="crop", crop=0.5))
    assert np.ptp(half[0, 0]) == pytest.approx(np.ptp(image[0, 0]) / 2, abs=0.02)


def reads(count: int, targets: tuple[int, ...] | None = None) -> list[Read]:
    return [Read(Item(n, str(n), f"/{n}.png", None, targets, None), "0" * 64) for n in range(count)]


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(1).random((count, 1, 16, 16), np.float32)


def test_the_softmax_is_over_classes_and_targets_are_not_counted_from_the_end(weights: str) -> None:
    model = ReferenceCNN().eval()
    chosen = settings(weights, picture=Picture((16, 16), 1), maps=Maps(), methods=(Method("epsilon"),))
    images = pictures(3)
    shares = model(torch.from_numpy(images)).detach().double().softmax(1)
    threshold = float(shares.median())
    rows = Explainer(replace(chosen, targets=Targets("above", threshold, "softmax")), model=model).explain(
        images, reads(3)
    )
    found = [(int(row["id"]), row["target"]) for row in rows if row.get("target") is not None]
    assert found == [tuple(place) for place in (shares > threshold).nonzero().tolist()]
    rows = Explainer(replace(chosen, targets=Targets("given")), model=model).explain(images[:1], reads(1, (-1,)))
    assert "target -1 is out of range: legal are 0 to 3" in rows[0]["error"]


class Steep(nn.Module):
    """A finite output whose gradient is NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.net = ReferenceCNN()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x) + (0 * x).flatten(1).sum(1, keepdim=True).sqrt()


def test_a_map_of_nan_is_an_error_and_no_map(weights: str) -> None:
    chosen = settings(weights, picture=Picture((16, 16), 1), maps=Maps(), methods=(Method("saliency"),))
    rows = Explainer(chosen, model=Steep().eval()).explain(pictures(2), reads(2))
    assert all("saliency of output" in row["error"] and row.get("map") is None for row in rows)


def test_the_box_is_in_the_network_s_own_units() -> None:
    box = build(
        Method("epsilon_gamma_box"),
        ReferenceCNN().eval(),
        Picture((16, 16), 1, mean=(1024.0,), std=(2.0,), scale=2048.0),
    )
    (spec,) = [spec for _, spec in box.composite.pairs if spec.name == "zbox"]  # type: ignore[union-attr]
    assert (float(spec.parameters["low"]), float(spec.parameters["high"])) == (-512.0, 512.0)


def test_settings_that_cannot_be_are_named(weights: str) -> None:
    settings(weights, picture=Picture((16, 24), 1), maps=Maps(size=(16, 24)))
    for size in ((17, 24), (16, 25)):
        with pytest.raises(ValueError, match="larger than the picture"):
            settings(weights, picture=Picture((16, 24), 1), maps=Maps(size=size))
    for std in ((0.0,), (-1.0,)):
        with pytest.raises(ValueError, match="std .*numbers above 0"):
            Picture((16, 16), 1, mean=(0.5,), std=std)


def test_ids_keep_their_zeros_and_lie_by_key(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,id\n" + "".join(f"{n}.png,{n:03d}\n" for n in range(40)))
    rows = read_list(str(tmp_path / "list.csv")).to_pylist()
    assert {row["id"] for row in rows} == {f"{n:03d}" for n in range(40)}
    assert [row["key"] for row in rows] == sorted(row["key"] for row in rows) and rows[0]["id"] != "000"


def test_as_many_classes_as_outputs_or_nothing_is_made(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One name for two outputs was accepted; found by the first picture, before Ray is started."""

    def started(*_: object) -> None:
        pytest.fail("Ray was started")

    monkeypatch.setattr("lrp_plugin.archive.run.cluster", started)
    words = [
        "archive",
        "explain",
        str(source),
        str(tmp_path / "maps"),
        "--model",
        "lrp_plugin.cxr.reference:ReferenceCNN",
    ]
    assert main([*words, "--size", "32", "--channels", "1", "--classes", "ill", "well"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "2 classes (ill, well) for a model of 4 outputs; give a name for each" in error
    assert not (tmp_path / "maps").exists()
