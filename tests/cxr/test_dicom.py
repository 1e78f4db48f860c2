from __future__ import annotations

import builtins
from pathlib import Path

import numpy as np
import pytest

from lrp_plugin.cxr import CXRFolder, DataWarning, RadiographError, read_radiograph

pydicom = pytest.importorskip("pydicom", reason="DICOM needs the extra `dicom`")


def write(path: Path, pixels: np.ndarray, **tags: object) -> Path:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    dataset.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    bits = pixels.dtype.itemsize * 8
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def ramp() -> np.ndarray:
    return np.linspace(0, 65535, 64 * 48).astype(np.uint16).reshape(64, 48)


def test_sixteen_bits_without_window_use_their_full_range(tmp_path: Path, ramp: np.ndarray) -> None:
    image = read_radiograph(write(tmp_path / "x.dcm", ramp))
    assert image.shape == (1, 64, 48)
    assert np.allclose(image[0].numpy(), ramp / 65535.0, atol=1e-6)


def test_monochrome1_is_inverted(tmp_path: Path, ramp: np.ndarray) -> None:
    path = write(tmp_path / "x.dcm", ramp, PhotometricInterpretation="MONOCHROME1")
    assert np.allclose(read_radiograph(path)[0].numpy(), 1.0 - ramp / 65535.0, atol=1e-6)


def test_window_after_rescale_follows_the_standard(tmp_path: Path) -> None:
    stored = np.array([[0, 1000, 1500, 2000, 4000]], np.int16)
    path = write(
        tmp_path / "x.dcm",
        stored,
        RescaleSlope="2",
        RescaleIntercept="-1000",
        WindowCenter="2000",
        WindowWidth="2001",
    )
    # PS3.3 C.11.2.1.2 by hand: ((x - (c - 0.5)) / (w - 1) + 0.5), x = 2 stored - 1000.
    expected = np.clip((2.0 * stored - 1000.0 - 1999.5) / 2000.0 + 0.5, 0.0, 1.0)
    assert np.allclose(read_radiograph(path)[0].numpy(), expected, atol=1e-6)
    assert 0 < expected[0, 2] < 1


def test_first_of_several_windows_is_used(tmp_path: Path, ramp: np.ndarray) -> None:
    one = write(tmp_path / "a.dcm", ramp, WindowCenter="30000", WindowWidth="10000")
    two = write(tmp_path / "b.dcm", ramp, WindowCenter=["30000", "9"], WindowWidth=["10000", "9"])
    assert np.array_equal(read_radiograph(one).numpy(), read_radiograph(two).numpy())


@pytest.mark.parametrize(("function", "at_edge"), [("LINEAR_EXACT", 0.0), ("SIGMOID", 1 / (1 + np.exp(2.0)))])
def test_window_functions(tmp_path: Path, function: str, at_edge: float) -> None:
    stored = np.array([[500, 1000]], np.uint16)
    path = write(tmp_path / "x.dcm", stored, WindowCenter="1000", WindowWidth="1000", VOILUTFunction=function)
    assert read_radiograph(path)[0, 0].tolist() == pytest.approx([at_edge, 0.5], abs=1e-6)


def test_padding_does_not_stretch_the_range(tmp_path: Path) -> None:
    stored = np.array([[-2000, 0, 50, 100]], np.int16)
    path = write(tmp_path / "x.dcm", stored, PixelPaddingValue=-2000)
    assert read_radiograph(path)[0, 0].tolist() == pytest.approx([0.0, 0.0, 0.5, 1.0])


def test_lookup_table_is_applied(tmp_path: Path) -> None:
    from pydicom.dataset import Dataset

    table = Dataset()
    table.LUTDescriptor = [4, 0, 8]
    table.LUTData = np.array([255, 0, 51, 102], np.uint16).tobytes()
    path = write(tmp_path / "x.dcm", np.array([[0, 1, 2, 3]], np.uint16), VOILUTSequence=[table])
    assert read_radiograph(path)[0, 0].tolist() == pytest.approx([1.0, 0.0, 0.2, 0.4])


def test_monochrome1_is_inverted_after_its_lookup_table(tmp_path: Path) -> None:
    from pydicom.dataset import Dataset

    table = Dataset()
    table.LUTDescriptor = [4, 0, 8]
    table.LUTData = np.array([255, 0, 51, 102], np.uint16).tobytes()
    stored = np.array([[0, 1, 2, 3]], np.uint16)
    path = write(tmp_path / "x.dcm", stored, VOILUTSequence=[table], PhotometricInterpretation="MONOCHROME1")
    assert read_radiograph(path)[0, 0].tolist() == pytest.approx([0.0, 1.0, 0.8, 0.6])


@pytest.mark.parametrize("name", ["IM0001", "photo.png", "scan.tif"])
def test_a_dicom_file_is_known_by_its_content(tmp_path: Path, ramp: np.ndarray, name: str) -> None:
    path = write(tmp_path / "x.dcm", ramp, PhotometricInterpretation="MONOCHROME1").rename(tmp_path / name)
    assert np.allclose(read_radiograph(path)[0].numpy(), 1.0 - ramp / 65535.0, atol=1e-6)


def test_a_dicom_bomb_and_nan_are_named(tmp_path: Path) -> None:
    bomb = write(tmp_path / "bomb.dcm", np.zeros((8, 8), np.uint8), Rows=65535, Columns=65535)
    with pytest.raises(RadiographError, match="too large to be unpacked safely"):
        read_radiograph(bomb)
    values = np.array([[0.0, np.nan, 1.0]], np.float32)
    path = write(tmp_path / "nan.dcm", values, FloatPixelData=values.tobytes())
    dataset = pydicom.dcmread(path)
    del dataset.PixelData
    dataset.save_as(path)
    with pytest.raises(RadiographError, match=r"nan\.dcm holds 1 pixels that are NaN"):
        read_radiograph(path)


def test_what_cannot_be_shown_is_named(tmp_path: Path, ramp: np.ndarray) -> None:
    colour = write(tmp_path / "colour.dcm", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(RadiographError, match=r"colour\.dcm holds RGB"):
        read_radiograph(colour)
    (tmp_path / "text.dcm").write_text("hello" * 100)
    with pytest.raises(RadiographError, match=r"text\.dcm is not a DICOM file: byte 128 .*; fetch it again"):
        read_radiograph(tmp_path / "text.dcm")
    dataset = pydicom.dcmread(write(tmp_path / "report.dcm", ramp))
    del dataset.PixelData
    dataset.Modality = "SR"
    dataset.save_as(tmp_path / "report.dcm")
    with pytest.raises(RadiographError, match=r"report\.dcm holds no pixels \(modality SR\); give an image"):
        read_radiograph(tmp_path / "report.dcm")
    cut = write(tmp_path / "cut.dcm", ramp)
    cut.write_bytes(cut.read_bytes()[:-2000])
    with pytest.raises(RadiographError, match=r"cut\.dcm cannot be decoded"):
        read_radiograph(cut)
    with pytest.raises(RadiographError, match="does not exist"):
        read_radiograph(tmp_path / "nowhere.dcm")


def test_dicom_in_a_folder_dataset(tmp_path: Path, ramp: np.ndarray) -> None:
    (tmp_path / "a").mkdir()
    write(tmp_path / "a" / "1.dcm", ramp)
    (tmp_path / "a" / "2.dcm").write_bytes(b"x" * 200)
    write(tmp_path / "3.dcm", ramp).rename(tmp_path / "a" / "IM0003")
    dataset = CXRFolder(tmp_path, size=32)
    assert len(dataset) == 3, "as PACS name them"
    assert dataset[0]["image"].shape == (1, 32, 32)
    with pytest.warns(DataWarning, match=r"2\.dcm"):
        _ = dataset[1]
    assert int(dataset[2]["disease"]) == 0


def test_without_pydicom_the_extra_is_named(tmp_path: Path, ramp: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.dcm", ramp)
    real = builtins.__import__

    def without(name: str, *rest: object, **more: object) -> object:
        if name.startswith("pydicom"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"lrp-plugin\[dicom\]"):
        read_radiograph(path)


def test_a_real_radiograph_looks_like_one() -> None:
    data = pytest.importorskip("data_store", reason="pydicom-data (34 MB) holds a real chest X-ray")
    image = read_radiograph(Path(next(iter(data.__path__))) / "data" / "RG1_UNCR.dcm")
    assert image.shape == (1, 1955, 1841)
    height, width = image.shape[1:]
    lung = image[0, int(0.35 * height) : int(0.55 * height), int(0.2 * width) : int(0.35 * width)].mean()
    spine = image[0, int(0.6 * height) : int(0.8 * height), int(0.45 * width) : int(0.55 * width)].mean()
    assert lung < spine, "MONOCHROME1 was inverted: bone is bright"
