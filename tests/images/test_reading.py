"""One reader: what a file is, its content says; what it cannot give, it names."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lrp_plugin.images import (
    LARGEST_PICTURE,
    ImageError,
    declared_shape,
    is_image_file,
    left_out,
    pixels_of,
    read_image,
)
from lrp_plugin.images.errors import refuse_bomb


@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff", "bmp", "gif", ""])
def test_the_content_decides_not_the_ending(tmp_path: Path, suffix: str) -> None:
    ramp = Image.linear_gradient("L")
    ramp.save(tmp_path / "made.png")
    path = (tmp_path / "made.png").rename(tmp_path / f"named.{suffix}".rstrip("."))
    assert torch.equal(read_image(path), torch.from_numpy(np.asarray(ramp, np.float32) / 255)[None])


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
@pytest.mark.parametrize("stored", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_grey_or_colour_as_asked(tmp_path: Path, stored: str, mode: str, channels: int) -> None:
    path = tmp_path / "x.tif"
    ramp = Image.linear_gradient("L")
    if stored == "I;16":
        ramp = Image.fromarray(np.asarray(ramp).astype(np.uint16) * 257)
    else:
        ramp = ramp.convert(stored)
    ramp.save(path if stored != "P" else path.with_suffix(".png"))
    image = read_image(path if stored != "P" else path.with_suffix(".png"), mode=mode)
    assert image.shape == (channels, 256, 256)
    assert image.dtype == torch.float32
    assert image[:, 250].mean() - image[:, 5].mean() > 0.9


def test_as_the_file_is_unless_asked(tmp_path: Path) -> None:
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "colour.png")
    assert read_image(tmp_path / "colour.png").shape == (3, 256, 256)
    with pytest.raises(ValueError, match="legal are 'L'"):
        read_image(tmp_path / "colour.png", mode="BGR")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = np.zeros((16, 24), np.uint8)
    upright[:8, :8] = 255  # a bright upper left corner
    turn = {2: [np.fliplr], 3: [np.rot90, np.rot90], 4: [np.flipud], 5: [np.transpose], 6: [np.rot90],
            7: [np.rot90, np.rot90, np.transpose], 8: [np.rot90] * 3}  # fmt: skip
    stored = upright
    for step in turn.get(orientation, []):
        stored = step(stored)
    picture = Image.fromarray(np.ascontiguousarray(stored))
    exif = picture.getexif()
    exif[0x0112] = orientation
    path = tmp_path / f"x.{suffix}"
    picture.save(path, exif=exif)
    image = read_image(path)
    assert image.shape == (1, 16, 24)
    assert declared_shape(path) == (16, 24)
    assert image[0, :8, :8].mean() > 0.95
    assert image[0, 8:].mean() < 0.05


def tiff(pixels: np.ndarray, photometric: int) -> bytes:
    """A baseline TIFF of one strip, written byte by byte: Pillow cannot be made to write WhiteIsZero in 16 bit."""
    data = pixels.tobytes()
    entries = [(256, 4, pixels.shape[1]), (257, 4, pixels.shape[0]), (258, 3, pixels.dtype.itemsize * 8), (259, 3, 1),
               (262, 3, photometric), (273, 4, 8), (277, 3, 1), (278, 4, pixels.shape[0]), (279, 4, len(data))]  # fmt: skip
    head = b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(entries))
    for tag, kind, value in entries:
        head += struct.pack("<HHI", tag, kind, 1) + struct.pack("<I", value)
    return head + struct.pack("<I", 0)


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
@pytest.mark.parametrize("photometric", [0, 1])
def test_white_is_zero_is_turned_over(tmp_path: Path, kind: str, photometric: int) -> None:
    full = np.iinfo(kind).max
    (tmp_path / "x.tif").write_bytes(tiff(np.array([[0, full, full // 5]], kind), photometric))
    expected = [0.0, 1.0, 0.2] if photometric else [1.0, 0.0, 0.8]
    assert read_image(tmp_path / "x.tif").flatten().tolist() == pytest.approx(expected, abs=1e-6)


def test_sixteen_bits_are_absolute_or_stretched(tmp_path: Path) -> None:
    Image.fromarray(np.array([[1000, 2000, 3000]], np.uint16)).save(tmp_path / "x.png")
    absolute = read_image(tmp_path / "x.png").flatten().tolist()
    assert absolute == pytest.approx([1000 / 65535, 2000 / 65535, 3000 / 65535])
    assert read_image(tmp_path / "x.png", stretch=True).flatten().tolist() == pytest.approx([0, 0.5, 1])


@pytest.mark.parametrize(
    ("values", "seen"), [([0, 0.25, 1], [0, 0.25, 1]), ([-1, 0, 1], [0, 0.5, 1]), ([0, 50, 200], [0, 0.25, 1])]
)
def test_floating_point_is_read_within_zero_and_one(tmp_path: Path, values: list[float], seen: list[float]) -> None:
    Image.fromarray(np.array([values], np.float32)).save(tmp_path / "x.tif")
    assert read_image(tmp_path / "x.tif").flatten().tolist() == pytest.approx(seen)


def test_floating_point_within_its_range_is_not_stretched_nor_read_otherwise_from_pillow(tmp_path: Path) -> None:
    """Given as a file it was stretched, given as an image it was not."""
    Image.fromarray(np.array([[0.25, 0.5]], np.float32)).save(tmp_path / "x.tif")
    with Image.open(tmp_path / "x.tif") as opened:
        for read in (read_image(tmp_path / "x.tif", stretch=True), pixels_of(opened, stretch=True)):
            assert read.flatten().tolist() == [0.25, 0.5]


def test_pages_and_transparency_are_told(tmp_path: Path) -> None:
    red, clear = Image.new("RGB", (4, 4), "red"), Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    (
        red.save(tmp_path / "one.png"),
        red.convert("RGBA").save(tmp_path / "opaque.png"),
        clear.save(tmp_path / "clear.png"),
    )
    red.save(tmp_path / "two.gif", save_all=True, append_images=[Image.new("RGB", (4, 4), "blue")])
    red.convert("P").save(tmp_path / "palette.png", transparency=red.convert("P").getpixel((0, 0)))
    told = {
        name: left_out(tmp_path / name) for name in ("one.png", "opaque.png", "clear.png", "two.gif", "palette.png")
    }
    assert [len(sentences) for sentences in told.values()] == [0, 0, 1, 1, 1]
    assert told["two.gif"] == ("the file holds 2 pages; the first is explained",)
    assert told["clear.png"] == left_out(clear) == told["palette.png"] and "transparent" in told["clear.png"][0]
    (tmp_path / "IM0001").write_bytes(b"\0" * 128 + b"DICM")
    assert left_out(tmp_path / "IM0001") == ()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_none_are_named(tmp_path: Path, bad: float) -> None:
    Image.fromarray(np.array([[0, bad, 1]], np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(ImageError, match=r"x\.tif holds 1 pixels that are NaN or infinite"):
        read_image(tmp_path / "x.tif")


@pytest.mark.parametrize("side", [13_500, 20_000])
def test_a_decompression_bomb_is_refused_unopened(tmp_path: Path, side: int) -> None:
    Image.new("1", (side, side)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 100_000
    with pytest.raises(ImageError, match=r"bomb\.png has .*too large to be unpacked safely"):
        read_image(tmp_path / "bomb.png")
    assert declared_shape(tmp_path / "bomb.png") is None


def test_a_bomb_is_measured_by_its_pixels() -> None:
    """DICOM and declared sizes come to this check alone; Pillow measures its own."""
    refuse_bomb("x", LARGEST_PICTURE, 1)
    refuse_bomb("x", 10_000, LARGEST_PICTURE // 10_000)
    for width, height in ((LARGEST_PICTURE + 1, 1), (20_000, 20_000), (1, 10**9)):
        with pytest.raises(ImageError, match=f"x has {width} x {height} pixels"):
            refuse_bomb("x", width, height)


def test_colour_becomes_luma(tmp_path: Path) -> None:
    """ITU-R 601: 0.299, 0.587, 0.114."""
    Image.fromarray(255 * np.eye(3, dtype=np.uint8)[None]).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png", mode="L").flatten().tolist() == pytest.approx([0.299, 0.587, 0.114], abs=2e-3)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    Image.linear_gradient("L").save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:150])
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "link.png").symlink_to("away.png")
    (tmp_path / "circle.png").symlink_to("circle.png")
    for path, message in {
        "cut.png": "broken or cut short.*; save it again, or fetch it again",
        "text.png": "is no picture that Pillow knows; legal are PNG, .* and DICOM: save it as PNG",
        "empty.png": "is no picture that Pillow knows: it is empty; legal are",
        "nowhere.png": "does not exist",
        "link.png": "does not exist, where its link away.png points",
        "circle.png": "cannot be read: Too many levels of symbolic links",
        ".": r"is a folder; give files, such as .*\*.png",
    }.items():
        with pytest.raises(ImageError, match=message):
            read_image(tmp_path / path)


@given(st.binary(max_size=300), st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"II*\0", b"BM", b""]))
def test_rubbish_is_named_never_a_bare_error(
    tmp_path_factory: pytest.TempPathFactory, tail: bytes, head: bytes
) -> None:
    path = tmp_path_factory.mktemp("rubbish") / "x.png"
    path.write_bytes(head + tail)
    with pytest.raises(ImageError, match=r"x\.png"):
        read_image(path)


def test_files_without_an_ending_count_where_they_are_dicom(tmp_path: Path) -> None:
    (tmp_path / "IM0001").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "README").write_text("text")
    (tmp_path / "x.PNG").write_bytes(b"")
    assert [is_image_file(tmp_path / name) for name in ("IM0001", "README", "x.PNG")] == [True, False, True]
