"""``lrp-plugin cxr`` on folders of pictures: parts that hold, what is missing or cut short is named or left out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("jinja2", reason="the HTML report needs Jinja2")

from commands import contents, cxr

from lrp_plugin.cxr.runfolder import RunSettings, open_parts


def folder_run(database: Path, out: Path, *more: str) -> int:
    return cxr("train", out, "--data", str(database), "--size", "48", "--epochs", "1", "--batch-size", "8", *more)


def test_a_folder_is_trained_on_and_reported(database, tmp_path):
    out, before = tmp_path / "run", contents(database)
    assert folder_run(database, out) == 0
    assert cxr("report", out, "--methods", "epsilon", "--examples", "1") == 0
    assert str(database) in (out / "report.html").read_text()
    assert contents(database) == before, "nothing is written into the data"


def test_a_training_picture_is_never_tested(own_database, tmp_path, capsys):
    """With one file gone the parts are not cut anew: 56 of 80 test pictures had been trained on."""
    out = tmp_path / "run"
    for path in own_database.glob("*.xlsx"):
        path.unlink()  # Its lists would name what is missing first.
    assert folder_run(own_database, out) == 0
    stored = json.loads((out / "parts.json").read_text())
    settings = RunSettings.load(out)
    (own_database / sorted(stored["train"])[0]).unlink()
    Image.new("L", (299, 299), 7).save(own_database / "COVID" / "images" / "COVID-99.png")
    moved = sorted(stored["train"])[1]
    (own_database / moved).rename(own_database / "COVID" / "images" / "COVID-98.png")
    with pytest.warns(UserWarning, match="1 pictures that no part of the run has .*COVID-99"):
        parts = open_parts(settings, out, training=False)
    names = {Path(parts.whole.path(i)).relative_to(own_database).as_posix() for i in parts.test.indices}
    assert names == set(stored["test"])
    gone, changed = sorted(stored["test"])[:2]
    Image.new("L", (299, 299), 9).save(own_database / changed)
    (own_database / gone).unlink()
    assert cxr("evaluate", out) == 2
    error = capsys.readouterr().err
    assert "1 pictures whose content changed since training" in error and "no longer 1 of the" in error
    with pytest.warns(UserWarning, match="left out"):
        assert cxr("evaluate", out, "--lenient") == 0
    matrix = json.loads((out / "metrics.json").read_text())["confusion_matrix"]
    assert sum(map(sum, matrix)) == len(stored["test"]) - 2
    with pytest.raises(ValueError, match="no longer 1 of the .* pictures of the train part"):
        open_parts(settings, out)


def test_copies_of_a_picture_stay_in_one_part(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(20):
            Image.new("L", (16, 16), number // 2 * 5 + ord(name)).save(tmp_path / name / f"{number}.png")
    with pytest.warns(UserWarning, match="are copies of others"):
        stored = open_parts(RunSettings(data=str(tmp_path), size=16)).stored
    contents = [set(part.values()) for part in stored.parts.values()]
    assert not (contents[0] & contents[2] or contents[0] & contents[1] or contents[1] & contents[2])


def test_a_missing_class_folder_is_an_error_unless_lenient(own_database, tmp_path, capsys):
    shutil.rmtree(own_database / "Viral Pneumonia")
    out = tmp_path / "run"
    assert folder_run(own_database, out) == 2
    assert "Viral Pneumonia is missing" in capsys.readouterr().err
    assert not out.exists()
    with pytest.warns(UserWarning, match="Viral Pneumonia is missing"):
        assert folder_run(own_database, out, "--lenient") == 0


def test_a_truncated_picture_is_named_and_the_run_goes_on_once_it_is_mended(own_database, tmp_path, capsys):
    out, cut = tmp_path / "run", own_database / "COVID" / "images" / "COVID-2.png"
    whole = cut.read_bytes()
    cut.write_bytes(whole[:5000])
    parts = open_parts(RunSettings(data=str(own_database), size=48))
    assert 1 in parts.train.indices, "the damaged picture must be met while training"
    assert folder_run(own_database, out) == 2
    error = capsys.readouterr().err
    assert "COVID-2.png" in error and "cut short" in error
    assert not [path for path in out.rglob("*") if path.suffix in (".partial", ".tmp")]
    cut.write_bytes(whole)
    assert folder_run(own_database, out) == 0


def test_a_truncated_picture_can_be_left_out(own_database, tmp_path):
    (own_database / "COVID" / "images" / "COVID-2.png").write_bytes(b"\x89PNG")
    with pytest.warns(UserWarning, match=r"COVID-2\.png"):
        assert folder_run(own_database, tmp_path / "run", "--lenient") == 0
