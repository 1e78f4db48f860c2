from __future__ import annotations

import builtins
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from lrp_plugin.cxr import (
    COVID19_COUNTS,
    IGNORED,
    CXRFolder,
    DataWarning,
    RadiographError,
    cxr_transforms,
)
from lrp_plugin.pyhealth import COVID19CXRDataset

#: What the fixture ``database`` writes.
SMALL_COUNTS = {"COVID": 12, "Lung Opacity": 4, "Normal": 5, "Viral Pneumonia": 3}


def open_database(root: Path, **arguments: object) -> COVID19CXRDataset:
    return COVID19CXRDataset(root, **{"expected": SMALL_COUNTS, **arguments})


def every_file(root: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(root.rglob("*"))}


def test_database_is_read_as_it_is(database: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = open_database(database, strict=True)
        sample = dataset[0]
    assert dataset.class_counts() == SMALL_COUNTS
    assert sample["image"].shape == (1, 299, 299)
    assert sample["image"].dtype == torch.float32
    expected = np.asarray(Image.open(database / "COVID" / "images" / "COVID-1.png"), np.float32) / 255
    assert np.array_equal(sample["image"][0].numpy(), expected)
    assert int(sample["disease"]) == 0
    assert sample["disease"].dtype == torch.int64
    assert isinstance(sample["lungs"], tv_tensors.Mask)
    assert sample["lungs"].shape == (1, 299, 299)
    # 128 x 64 pixels, twice, of 256 x 256: a quarter of the picture, up to rounding at the edges.
    assert sample["lungs"].float().mean() == pytest.approx(0.25, abs=0.01)


def test_vocabulary_is_sorted_and_invertible(database: Path) -> None:
    dataset = open_database(database)
    assert dataset.label_vocab == {"COVID": 0, "Lung Opacity": 1, "Normal": 2, "Viral Pneumonia": 3}
    assert {dataset.id2label[v]: v for v in dataset.id2label} == dataset.label_vocab


def test_files_come_in_natural_order(database: Path) -> None:
    names = [Path(open_database(database).event(i).path).stem for i in range(12)]
    assert names == [f"COVID-{i}" for i in range(1, 13)]


def test_urls_come_from_the_lists_despite_their_spelling(database: Path) -> None:
    dataset = open_database(database)
    normal = dataset.labels.index(2)
    assert dataset.event(normal).url == "https://example.org/Normal/1"
    assert all(dataset.event(i).url for i in range(len(dataset)))


def test_stats_prints_and_returns(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = open_database(database).stats()
    assert summary == {"dataset": "covid19_cxr", "patients": 24, "events": 24, "classes": SMALL_COUNTS}
    printed = capsys.readouterr().out
    assert "Number of patients: 24" in printed
    assert "Lung Opacity: 4" in printed
    open_database(database).stats(show=False)
    assert capsys.readouterr().out == ""


def test_patient_is_fetched_by_id(database: Path) -> None:
    dataset = open_database(database)
    (event,) = dataset.get_patient("0").get_events()
    assert event.attr_dict == {
        "path": str(database / "COVID" / "images" / "COVID-1.png"),
        "url": "https://example.org/COVID/1",
        "label": "COVID",
    }
    assert dataset.get_patient(23).get_events()[0].label == "Viral Pneumonia"
    with pytest.raises(KeyError, match="no patient '99'"):
        dataset.get_patient("99")


def test_default_task_says_what_goes_in_and_out(database: Path) -> None:
    dataset = open_database(database)
    task = dataset.default_task
    assert (task.input_schema, task.output_schema) == ({"image": "image"}, {"disease": "multiclass"})
    assert "COVID19CXRClassification" in repr(task)
    view = dataset.set_task()
    assert view.output_processors["disease"].label_vocab == dataset.label_vocab
    assert int(view.output_processors["disease"].process("Normal")) == 2
    assert len(view.samples) == 24
    assert [int(sample["disease"]) for sample in view.samples] == dataset.labels
    assert len(view.samples[1:3]) == 2
    with pytest.raises(KeyError, match="Flu"):
        view.output_processors["disease"].process("Flu")


def test_nothing_is_written_and_reading_is_lazy(database: Path) -> None:
    before = every_file(database)
    dataset = open_database(database)
    _ = dataset[0], dataset[23], dataset.stats(show=False)
    assert every_file(database) == before
    assert not any(isinstance(value, torch.Tensor) for value in vars(dataset).values())


def test_folder_may_be_read_only_and_may_move(own_database: Path, tmp_path: Path) -> None:
    first = open_database(own_database)[5]
    moved = tmp_path / "elsewhere"
    shutil.move(own_database, moved)
    moved.chmod(0o555)
    try:
        second = open_database(moved)[5]
    finally:
        moved.chmod(0o755)
    assert torch.equal(first["image"], second["image"])


def test_works_without_openpyxl(database: Path, own_database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in own_database.glob("*.xlsx"):
        path.unlink()
    real = builtins.__import__

    def without(name: str, *rest: object, **more: object) -> object:
        if name.startswith("openpyxl"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(open_database(own_database)) == 24
    with pytest.warns(DataWarning, match="openpyxl"):
        dataset = open_database(database)
    assert len(dataset) == 24


def test_size_and_mode_are_chosen(database: Path) -> None:
    sample = open_database(database, size=64, mode="RGB")[3]
    assert sample["image"].shape == (3, 64, 64)
    assert torch.equal(sample["image"][0], sample["image"][2])
    assert sample["lungs"].shape == (1, 64, 64)
    assert set(sample["lungs"].unique().tolist()) == {0, 1}
    with pytest.raises(ValueError, match="'RGB'"):
        open_database(database, mode="BGR")
    with pytest.raises(ValueError, match="size=0"):
        open_database(database, size=0)


def test_training_transform_moves_picture_and_mask_together(database: Path) -> None:
    straight = open_database(database, size=96)[0]
    transform = cxr_transforms()
    # The mask put in the picture's place shows whether both went the same way.
    straight["image"] = tv_tensors.Image(straight["lungs"].float())
    torch.manual_seed(3)
    moved = transform(straight)
    assert not torch.equal(moved["lungs"], straight["lungs"])
    brightness = moved["image"][moved["lungs"].bool()].mean()
    assert brightness > 0.5
    assert (moved["image"] > 0.5 * brightness).float().sub(moved["lungs"].float()).abs().mean() < 0.02


def test_a_part_of_the_database_is_named(database: Path) -> None:
    with pytest.warns(DataWarning, match="COVID 12 instead of 3616.*Normal 5 instead of 10192"):
        COVID19CXRDataset(database)
    with pytest.raises(RadiographError, match="12 instead of 3616"):
        COVID19CXRDataset(database, strict=True)
    assert sum(COVID19_COUNTS.values()) == 21165


def test_listed_but_missing_picture_is_named(own_database: Path) -> None:
    (own_database / "Normal" / "images" / "Normal-3.png").unlink()
    with pytest.warns(DataWarning, match=r"Normal lists are missing: Normal-3"):
        dataset = open_database(own_database, expected=None)
    assert len(dataset) == 23
    with pytest.raises(RadiographError, match="Normal-3"):
        open_database(own_database, strict=True)


def test_truncated_png_is_named_and_left_out(own_database: Path) -> None:
    path = own_database / "COVID" / "images" / "COVID-2.png"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    dataset = open_database(own_database)
    with pytest.warns(DataWarning, match=r"COVID-2\.png is broken or cut short"):
        sample = dataset[1]
    assert int(sample["disease"]) == IGNORED
    assert sample["image"].shape == (1, 299, 299), "so that it still fits into a batch"
    assert sample["image"].max() == 0
    with pytest.raises(RadiographError, match=r"COVID-2\.png"):
        open_database(own_database, strict=True)[1]


def test_empty_and_vanished_files_are_named(own_database: Path) -> None:
    (own_database / "COVID" / "images" / "COVID-1.png").write_bytes(b"")
    dataset = open_database(own_database)
    with pytest.warns(DataWarning, match=r"COVID-1\.png is no picture"):
        assert int(dataset[0]["disease"]) == IGNORED
    (own_database / "COVID" / "images" / "COVID-3.png").unlink()
    with pytest.warns(DataWarning, match=r"COVID-3\.png does not exist"):
        assert int(dataset[2]["disease"]) == IGNORED


def test_mask_of_the_wrong_shape_is_named_and_emptied(own_database: Path) -> None:
    path = own_database / "COVID" / "masks" / "COVID-4.png"
    Image.new("L", (256, 128), 255).save(path)
    dataset = open_database(own_database)
    with pytest.warns(DataWarning, match=r"COVID-4\.png has the wrong size: 128 x 256"):
        sample = dataset[3]
    assert int(sample["disease"]) == 0, "the picture itself is fine"
    assert int(sample["lungs"].sum()) == 0
    with pytest.raises(RadiographError, match="wrong size"):
        open_database(own_database, strict=True)[3]


def test_missing_mask_is_named(own_database: Path) -> None:
    (own_database / "COVID" / "masks" / "COVID-5.png").unlink()
    with pytest.warns(DataWarning, match=r"lung mask .*COVID-5\.png does not exist"):
        assert int(open_database(own_database)[4]["lungs"].sum()) == 0


def test_missing_class_folder_is_named_and_labels_stay(own_database: Path) -> None:
    shutil.rmtree(own_database / "Lung_Opacity")
    with pytest.warns(DataWarning, match="Lung_Opacity is missing"):
        dataset = open_database(own_database, expected=None)
    assert set(dataset.labels) == {0, 2, 3}
    assert dataset.class_counts()["Lung Opacity"] == 0
    with pytest.raises(RadiographError, match="Lung_Opacity is missing"):
        open_database(own_database, strict=True)


def test_empty_class_folder_is_named(own_database: Path) -> None:
    for path in (own_database / "Normal" / "images").iterdir():
        path.unlink()
    (own_database / "Normal.metadata.xlsx").unlink()
    with pytest.warns(DataWarning, match="Normal/images is empty"):
        assert len(open_database(own_database, expected=None)) == 19


def test_empty_or_missing_root_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RadiographError, match="no pictures under"):
        CXRFolder(tmp_path)
    with pytest.raises(FileNotFoundError, match="is no folder"):
        CXRFolder(tmp_path / "nowhere")
    with pytest.warns(DataWarning), pytest.raises(RadiographError, match="no pictures"):
        COVID19CXRDataset(tmp_path)


def test_broken_list_is_named(own_database: Path) -> None:
    (own_database / "COVID.metadata.xlsx").write_bytes(b"not a workbook")
    with pytest.warns(DataWarning, match=r"COVID\.metadata\.xlsx is broken"):
        assert len(open_database(own_database)) == 24


def test_any_folder_of_classes_is_read(tmp_path: Path) -> None:
    for name, suffix, pixels in (
        ("sick", "png", np.full((20, 30), 65535, np.uint16)),
        ("well", "jpg", np.full((20, 30), 128, np.uint8)),
    ):
        (tmp_path / name / "deeper").mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / name / "deeper" / f"7_a.{suffix}")
    (tmp_path / "well" / "notes.txt").write_text("no picture")
    (tmp_path / ".cache").mkdir()
    dataset = CXRFolder(tmp_path, patient_of=lambda path: path.stem.split("_")[0])
    assert dataset.label_vocab == {"sick": 0, "well": 1}
    assert dataset.patients == ["7", "7"]
    assert dataset[0]["image"].shape == (1, 20, 30)
    assert float(dataset[0]["image"].min()) == 1.0, "16 bit at full scale"
    assert float(dataset[1]["image"].mean()) == pytest.approx(128 / 255, abs=0.01)
    assert int(dataset[0]["lungs"].sum()) == 0


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "LA", "1"])
def test_every_pixel_format_becomes_grey(tmp_path: Path, mode: str) -> None:
    (tmp_path / "a").mkdir()
    gradient = Image.linear_gradient("L")
    gradient.convert(mode).save(tmp_path / "a" / "x.png")
    image = CXRFolder(tmp_path)[0]["image"]
    assert image.shape == (1, 256, 256)
    assert image[0, 250].mean() - image[0, 5].mean() > 0.9


@pytest.mark.skipif(not hasattr(os, "fork"), reason="memory is read from /proc")
def test_memory_stays_flat_while_reading(database: Path) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    dataset = open_database(database)
    for i in range(24):
        _ = dataset[i]
    before = resident()
    for _ in range(10):
        for i in range(24):
            _ = dataset[i]
    # Kept, 240 pictures of 299 x 299 floats would take 86 MB.
    assert resident() - before < 30e6


def test_a_folder_of_anything_names_its_own_region(tmp_path: Path) -> None:
    from lrp_plugin.images.folders import LabelledFolder

    for folder in ("images", "masks"):
        (tmp_path / "cat" / folder).mkdir(parents=True)
        Image.new("L", (12, 12), 255).save(tmp_path / "cat" / folder / "7.png")
    sample = LabelledFolder(tmp_path, size=8)[0]
    assert isinstance(sample["region"], tv_tensors.Mask) and int(sample["region"].sum()) == 64
    assert "lungs" not in sample and set(CXRFolder(tmp_path)[0]) >= {"lungs", "image", "disease"}
