"""An archive from end to end on Ray: what is written, read, refused, added, proved and mended."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
import torch
from by_hand import contents, explain_by_hand
from killed_archive import settings
from PIL import Image
from radiographs import write_radiographs

from lrp_plugin import __version__
from lrp_plugin.archive import (
    Archive,
    Limits,
    Manifest,
    ManifestError,
    Method,
    ModelSource,
    TooManyErrorsError,
    explain_archive,
    status,
    verify,
)  # fmt: skip
from lrp_plugin.archive.chunks import name_of
from lrp_plugin.cli import main


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_radiographs(tmp_path_factory.mktemp("data"), 10)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, source: Path, weights: str) -> Path:
    archive = tmp_path_factory.mktemp("made") / "archive"
    explain_by_hand(source, archive, settings(weights))
    return archive


@pytest.fixture
def copy(tmp_path: Path, made: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def test_ray_writes_what_the_three_steps_write(
    tmp_path: Path, source: Path, weights: str, made: Path, ray: object
) -> None:
    seen = []
    progress = explain_archive(str(source), str(tmp_path / "archive"), settings(weights), report=seen.append)
    assert (progress.items, progress.done, progress.failed, progress.left) == (10, 10, 0, 0)
    assert [one.done for one in seen][0] == 0
    assert len(seen) == 4
    assert contents(tmp_path / "archive") == contents(made)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "archive").rglob("*") if path.is_file()}
    explain_archive(str(source), str(tmp_path / "archive"), settings(weights))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    result = verify(str(tmp_path / "archive"), sample=10, sources=True)
    assert result.whole, result.problems
    assert (result.found, result.maps, result.again, result.identical) == (10, 20, 20, 20)


def test_sources_that_are_broken_are_named_and_done_again_when_asked(
    tmp_path: Path, source: Path, weights: str, made: Path, ray: object
) -> None:
    shutil.copytree(source.parent, tmp_path / "data")
    listed, images = tmp_path / "data" / "list.csv", tmp_path / "data" / "images"
    content = (images / "0.png").read_bytes()
    (images / "0.png").write_bytes(content[: len(content) // 2])
    (images / "1.png").write_bytes(bytes(128) + b"DICM" + b"\x02\x00 not a dataset")
    (images / "2.png").unlink()
    nan = np.full((48, 48), np.nan, np.float32)
    Image.fromarray(nan, "F").save(images / "3.tiff")
    (images / "3.tiff").rename(images / "3.png")
    (tmp_path / "data" / "lungs" / "4.png").write_bytes(b"")
    url = str(tmp_path / "archive")
    progress = explain_archive(str(listed), url, settings(weights))
    assert (progress.done, progress.failed) == (10, 5)
    errors = {one.id: one.error for one in Archive(url).filter(failed=True)}
    assert sorted(errors) == ["p0", "p1", "p2", "p3", "p4"]
    wanted = {"p0": "cut short", "p1": "DICOM|decoded", "p2": "does not exist", "p3": "NaN", "p4": "mask"}
    for name, part in wanted.items():
        assert any(one in errors[name] for one in part.split("|")), errors[name]
    sound = {one["id"]: one for one in contents(made) if one["method"] == "epsilon"}
    for row in contents(Path(url)):
        if row["error"] is None and row["method"] == "epsilon":
            assert row["map"] == sound[row["id"]]["map"]
    assert verify(url, sample=10).whole
    with pytest.raises(TooManyErrorsError, match="allowed are 0"):
        explain_archive(str(listed), url, settings(weights), limits=Limits(max_errors=0, retry_errors=True))
    for place in ("images", "lungs"):
        shutil.copytree(source.parent / place, tmp_path / "data" / place, dirs_exist_ok=True)
    progress = explain_archive(str(listed), url, settings(weights), limits=Limits(retry_errors=True))
    assert progress.failed == 0
    assert [row["map"] for row in contents(Path(url))] == [row["map"] for row in contents(made)]


def test_another_model_or_setting_is_refused_by_name(tmp_path: Path, copy: Path, source: Path, weights: str) -> None:
    other = tmp_path / "other.pt"
    state = torch.load(weights)
    state["head.bias"] += 1
    torch.save(state, other)
    given = settings(weights)
    cases = {
        "weights_sha256": replace(given, model=ModelSource(given.model.maker, str(other))),
        "methods.gamma": replace(given, methods=(*given.methods, Method("gamma"))),
        "methods.epsilon.options.epsilon": replace(
            given, methods=(Method("epsilon", {"epsilon": 0.5}), given.methods[1])
        ),
        "picture.size: the archive has \\[48, 48\\], asked for is \\[64, 64\\]": replace(
            given, picture=replace(given.picture, size=(64, 64))
        ),
        "ledger": replace(given, ledger=True),
    }
    before = contents(copy)
    for named, changed in cases.items():
        with pytest.raises(ManifestError, match=named):
            explain_archive(str(source), str(copy), changed)
    assert contents(copy) == before
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    (stranger / "letter.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        explain_archive(str(source), str(stranger), given)


@pytest.mark.slow
def test_a_run_killed_before_its_manifest_goes_on(
    copy: Path, source: Path, weights: str, made: Path, ray: object
) -> None:
    (copy / "manifest.json").unlink()
    shutil.rmtree(copy / "maps")
    for place in (copy, copy / "items"):
        (place / ".0123456789abcdef.tmp").write_bytes(b"half")
    explain_archive(str(source), str(copy), settings(weights))
    assert contents(copy) == contents(made)
    assert not list(copy.rglob("*.tmp"))


@pytest.mark.slow
def test_items_are_added_and_an_id_means_one_source(
    tmp_path: Path, copy: Path, source: Path, weights: str, ray: object
) -> None:
    more = tmp_path / "more.csv"
    lines = [line.replace("images/", f"{source.parent}/images/").replace(",lungs/", f",{source.parent}/lungs/")
             for line in source.read_text().splitlines()]  # fmt: skip
    more.write_text("\n".join([*lines, f"new,{source.parent}/images/3.png,COVID,0,"]) + "\n")
    with pytest.raises(ValueError, match="lacks 1 items.*--add"):
        explain_archive(str(more), str(copy), settings(weights))
    progress = explain_archive(str(more), str(copy), settings(weights), limits=Limits(add=True))
    assert (progress.items, progress.done) == (11, 11)
    archive = Archive(str(copy))
    # A batch of another size rounds otherwise, in float32 and then in float16.
    new, old = (archive[name].explanations[0].map for name in ("new", "p3"))
    np.testing.assert_allclose(new, old, atol=2**-10 * np.abs(old).max())
    assert verify(str(copy), sample=11).whole
    more.write_text("\n".join([lines[0], f"p3,{source.parent}/images/4.png,COVID,0,"]) + "\n")
    with pytest.raises(ValueError, match="p3: source was"):
        explain_archive(str(more), str(copy), settings(weights))


def test_what_is_damaged_is_named_and_made_again(
    copy: Path, source: Path, weights: str, made: Path, ray: object
) -> None:
    first, second = (copy / name_of(chunk) for chunk in (0, 1))
    first.write_bytes(first.read_bytes()[:-20])
    content = bytearray(second.read_bytes())
    content[len(content) // 3] ^= 1
    second.write_bytes(content)
    (copy / "maps" / "00000" / "letter.txt").write_text("mine")
    result = verify(str(copy), sample=0)
    assert not result.whole
    assert [name_of(0) in text for text in result.problems].count(True) == 1
    assert [name_of(1) in text for text in result.problems].count(True) == 1
    assert any("letter.txt" in text for text in result.problems)
    assert status(str(copy)).progress.left == 4
    verify(str(copy), sample=0, repair=True)
    assert not first.exists() and not second.exists()
    explain_archive(None, str(copy), settings(weights))
    (copy / "maps" / "00000" / "letter.txt").unlink()
    assert verify(str(copy), sample=10).whole
    assert contents(copy) == contents(made)


def test_a_source_that_changed_or_vanished_is_named(tmp_path: Path, source: Path, weights: str) -> None:
    shutil.copytree(source.parent, tmp_path / "data")
    explain_by_hand(tmp_path / "data" / "list.csv", tmp_path / "archive", settings(weights))
    images = tmp_path / "data" / "images"
    shutil.copy(images / "5.png", images / "6.png")
    (images / "7.png").unlink()
    for found in (
        verify(str(tmp_path / "archive"), sample=0, sources=True),
        verify(str(tmp_path / "archive"), sample=10),
    ):
        assert len(found.problems) == 2
        assert any("'p6' changed" in text for text in found.problems)
        assert any("'p7' vanished" in text for text in found.problems)


def test_a_map_that_is_another_ones_is_found_when_explained_again(copy: Path, weights: str) -> None:
    from lrp_plugin.archive import chunks

    manifest = Manifest.read(str(copy))
    with chunks.opened(str(copy), 0) as file:
        rows = file.read().to_pylist()
    rows[0]["map"], rows[2]["map"] = rows[2]["map"], rows[0]["map"]
    rows.append(dict(rows[0]))
    content, _ = chunks.encode(rows[:-1], manifest.archive, 0, {})
    chunks.write(str(copy), 0, content)
    found = verify(str(copy), sample=10)
    assert len(found.problems) == 2
    assert all("the map differs" in text for text in found.problems)
    chunks.write(str(copy), 0, chunks.encode(rows, manifest.archive, 0, {})[0])
    assert any("rows [" in text for text in verify(str(copy), sample=0).problems)


def test_reading(made: Path, source: Path) -> None:
    archive = Archive(str(made))
    assert len(archive) == 10
    assert "p3" in archive and "p33" not in archive and 3 not in archive
    with pytest.raises(KeyError, match="no id 'p33'"):
        archive["p33"]
    found = {one.id: one for one in archive}
    assert list(found) == list(archive.ids())
    for name, one in found.items():
        alone = archive[name]
        assert alone.source == one.source == str(source.parent / "images" / f"{name[1:]}.png")
        for a, b in zip(alone.explanations, one.explanations, strict=True):
            np.testing.assert_array_equal(a.map, b.map)
            assert a.map.shape == (24, 24)
            assert float(a.map.sum()) == pytest.approx(a.relevance, abs=2**-11 * float(np.abs(a.map).sum()) + 1e-6)
    epsilon = archive.filter(method="epsilon")
    assert len(epsilon) == 10
    assert len(archive.filter()) == 20
    predicted = {one.prediction for one in found.values()}
    assert sum(len(archive.filter(prediction=one, method="epsilon")) for one in predicted) == 10
    shares = epsilon.to_arrow()["share"].to_pylist()
    middle = sorted(shares)[5]
    assert len(archive.filter(method="epsilon", share=(0, middle))) == sum(share <= middle for share in shares)
    assert len(archive.filter(label=["COVID", "Normal"], method="epsilon")) == sum(
        one.label in ("COVID", "Normal") for one in found.values()
    )
    ids, maps = epsilon.to_numpy()
    assert maps.shape == (10, 24, 24)
    dataset = epsilon.to_torch(lambda sample: (sample["map"], sample["id"]))
    loader = torch.utils.data.DataLoader(dataset, batch_size=4, num_workers=0)
    np.testing.assert_array_equal(torch.cat([part for part, _ in loader]).numpy(), maps)
    pandas = pytest.importorskip("pandas", reason="to_pandas needs pandas")
    assert isinstance(epsilon.to_pandas(), pandas.DataFrame)


def test_the_manifest_says_what_made_it(made: Path, weights: str) -> None:
    values = json.loads((made / "manifest.json").read_text())
    assert values["about"]["versions"]["lrp_plugin"] == __version__
    decided = values["decided"]
    assert len(decided["model"]["weights_sha256"]) == len(decided["model"]["model_sha256"]) == 64
    assert "rule('zplus'" in decided["methods"]["epsilon_plus_flat"]["composite"]
    assert decided["batch"] == 2 and decided["picture"]["size"] == [48, 48]


def test_names_that_are_given_later_are_the_archives(
    tmp_path: Path, copy: Path, source: Path, weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """They were ignored in silence; an archive that has names keeps them where none are given."""
    names = ["a", "b", "c", "d"]
    explain_archive(str(source), str(copy), settings(weights), classes=names)
    assert Archive(str(copy)).manifest.classes == names
    explain_archive(str(source), str(copy), settings(weights))
    assert Archive(str(copy)).manifest.classes == names
    explain_archive(None, str(copy), settings(weights), classes=names[::-1])
    assert Archive(str(copy)).manifest.classes == names[::-1]
    with pytest.raises(ValueError, match=r"2 classes \(a, b\) for a model of 4 outputs"):
        explain_archive(str(source), str(copy), settings(weights), classes=names[:2])
    assert Archive(str(copy)).manifest.classes == names[::-1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--methods", "saliency", "--option", "bias=distribute"],
            "--option bias is of the LRP methods, and none is asked",
        ),
        (["--weights", "IMAGENET1K_V9"], "unknown weights of resnet18 'IMAGENET1K_V9'; did you mean IMAGENET1K_V1"),
        (["--weights", "absent.pt"], "no such checkpoint: absent.pt"),
        (["--model", "resnt18"], "unknown model 'resnt18'; did you mean resnet18"),
        (["--threshold", "0.7"], "--threshold is of --targets above; give that too, or leave it away"),
        (["--scale", "softmax"], "--scale is of --targets above; give that too"),
        (
            ["--model", "vit_b_16", "--size", "200"],
            "takes pictures of 224 x 224 pixels and was given 200 x 200; give --size and "
            "--channels of the pictures that it was made for",
        ),
        (["--size", "32", "--std", "0"], "std (0.0, 0.0, 0.0): legal are numbers above 0"),
    ],
)
def test_the_command_line_s_errors(
    tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["archive", "explain", str(source), str(tmp_path / "a"), "--model", "resnet18", *words]) == 2
    error = capsys.readouterr().err.splitlines()
    assert message in error[-1] and (len(error) == 1 or "UNTRAINED" in error[0] and "resnt18" not in error[0])
    assert not (tmp_path / "a").exists()


def test_a_name_that_is_no_text_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It was "'utf-8' codec can't decode byte 0xff in position 17"."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / os.fsdecode(b"bad\xff.png")).write_bytes(b"")
    assert main(["archive", "explain", str(tmp_path / "data"), str(tmp_path / "a"), "--model", "resnet18"]) == 2
    assert "holds a file whose name is no text in UTF-8, b'" in capsys.readouterr().err


def test_verify_names_the_devices_that_are_there(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["archive", "verify", str(made), "--device", "cuda:99"]) == 2
    assert "--device 'cuda:99': there is none of this name; legal here are " in capsys.readouterr().err


def test_the_command_line(
    tmp_path: Path, source: Path, weights: str, ray: object, capsys: pytest.CaptureFixture[str]
) -> None:
    url = str(tmp_path / "archive")
    command = [
        "archive", "explain", str(source), url, "--model", "lrp_plugin.cxr.reference:ReferenceCNN", "--weights", weights,
        "--methods", "epsilon", "saliency", "--size", "48", "--channels", "1", "--map-size", "12", "--batch", "4",
        "--chunk", "4", "--targets", "given", "--option", "epsilon=0.1", "--ledger",
    ]  # fmt: skip
    assert main(command) == 0
    assert "10 of 10 items, 0 failed" in capsys.readouterr().out
    assert main(["archive", "verify", url, "--sources"]) == 0
    assert "10 of 10 ids, each once" in capsys.readouterr().out
    assert main(["archive", "status", url]) == 0
    assert "done 10, of which failed 0; left 0" in capsys.readouterr().out
    assert main([*command[:-2], "epsilon=0.2", "--ledger"]) == 2
    assert "methods.epsilon" in capsys.readouterr().err
    labels = {one.id: int(one.explanations[0].target) for one in Archive(url)}
    assert labels == {f"p{n}": n % 4 for n in range(10)}
    (Path(url) / name_of(0)).unlink()
    assert main(["archive", "verify", url]) == 1
    assert "1 files are not there yet" in capsys.readouterr().out


class Keeper(logging.Handler):
    """Keeps the variables of every frame an error was logged from, as reporters of errors do."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.kept: list[object] = []

    def emit(self, record: logging.LogRecord) -> None:
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            self.kept.append(dict(frame.f_locals))
            frame = frame.f_back


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    handler = Keeper()
    logging.getLogger("ray.data").addHandler(handler)
    yield handler
    logging.getLogger("ray.data").removeHandler(handler)


@pytest.mark.ci
def test_a_full_disk_is_named_and_nothing_is_lost(
    tmp_path: Path, source: Path, weights: str, made: Path, ray: object, keeper: Keeper
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(disk)]).returncode:
        pytest.skip("a small disk can be mounted by root only")
    try:
        with pytest.raises(OSError, match="no space left where the archive lies"):
            explain_archive(str(source), str(disk / "archive"), settings(weights))
        assert keeper.kept  # It must not keep the failed run's cores.
        left = status(str(disk / "archive")).progress.left
        assert left > 0
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        assert explain_archive(str(source), str(disk / "archive"), settings(weights)).left == 0
        assert verify(str(disk / "archive"), sample=4).whole
        assert contents(disk / "archive") == contents(made)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_importing_the_command_line_needs_no_ray() -> None:
    code = "import sys, lrp_plugin.cli; lrp_plugin.cli.build_parser(); print('ray' in sys.modules, 'pyarrow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
