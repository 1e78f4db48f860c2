"""Files are whole or not there, and their names are safe."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lrp_plugin.files import csv_bytes, file_stem, file_stems, open_atomically, write_atomically, write_json


def test_a_file_is_written_and_replaced_and_nothing_else_stays(tmp_path: Path) -> None:
    path = write_atomically(tmp_path / "deep" / "er" / "x.bin", b"one")
    assert path.read_bytes() == b"one"
    write_atomically(path, memoryview(b"two"))
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in path.parent.iterdir()] == ["x.bin"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask(), "readable as any other file"


def _umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now


def test_json_holds_null_for_what_is_no_number_and_lists_for_tensors(tmp_path: Path) -> None:
    value = {"share": {"a": math.nan, "b": -math.inf}, "matrix": torch.eye(2), "row": np.arange(2)}
    path = write_json(tmp_path / "x.json", value)
    expected = {"share": {"a": None, "b": None}, "matrix": [[1, 0], [0, 1]], "row": [0, 1]}
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == expected
    with pytest.raises(FileExistsError):
        write_json(path, 1, replace=False)


def test_an_error_in_the_block_keeps_the_old_file(tmp_path: Path) -> None:
    path = write_atomically(tmp_path / "x", b"old")
    with pytest.raises(KeyboardInterrupt), open_atomically(path) as file:
        file.write(b"half of the n")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_a_full_disk_keeps_the_old_file(tmp_path: Path, full_disk: Any) -> None:
    path = write_atomically(tmp_path / "x", b"old")
    with full_disk(), pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        write_atomically(path, b"new" * 10000)
    assert path.read_bytes() == b"old"


def test_a_folder_that_is_not_ones_own_is_told_with_the_files_name(tmp_path: Path, monkeypatch: Any) -> None:
    """Not with the name of the neighbour that was to be written first."""

    def refused(path: Path, *_: Any) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.open", refused)
    with pytest.raises(PermissionError, match=f"'{tmp_path / 'x'}'"):
        write_atomically(tmp_path / "x", b"new")


def test_another_s_file_is_never_written_over_where_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_atomically(tmp_path / "x", b"theirs", replace=False)
    with pytest.raises(FileExistsError, match="left as it was"):
        write_atomically(path, b"ours", replace=False)
    with pytest.raises(FileExistsError), open_atomically(path, replace=False):
        raise AssertionError("refused before anything is computed for it")
    # Theirs comes while ours is being written: the look beforehand saw nothing.
    monkeypatch.setattr(os.path, "lexists", lambda _: False)
    with pytest.raises(FileExistsError):
        write_atomically(path, b"ours", replace=False)
    # Neither where the file system has no hard links.
    monkeypatch.setattr(os, "link", _no_links)
    with pytest.raises(FileExistsError):
        write_atomically(path, b"ours", replace=False)
    assert path.read_bytes() == b"theirs"
    assert write_atomically(tmp_path / "y", b"ours", replace=False).read_bytes() == b"ours"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["x", "y"]


def _no_links(*_: object, **__: object) -> None:
    raise PermissionError("no hard links here")


def test_no_symbolic_link_is_followed(tmp_path: Path) -> None:
    victim = write_atomically(tmp_path / "victim", b"precious")
    for name in ("x", "x.partial", ".x.tmp", "x.tmp"):
        (tmp_path / name).symlink_to(victim)
    write_atomically(tmp_path / "x", b"content")
    assert victim.read_bytes() == b"precious"
    assert (tmp_path / "x").read_bytes() == b"content"
    assert not (tmp_path / "x").is_symlink()


def test_writers_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    contents = [bytes([number]) * 200_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda content: write_atomically(tmp_path / "x", content), contents))
    assert done == [tmp_path / "x"] * 8, "none is refused for another's sake"
    assert (tmp_path / "x").read_bytes() in contents
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("synthetic:17", "synthetic-17"),
        ("A/0.png", "A-0-png"),
        ("胸部X線", "胸部X線"),
        ("../../etc/passwd", "etc-passwd"),
        ("A $x^2$", "A-x-2"),
        ("Cafe\u0301", "Caf\u00e9"),  # as macOS spells it
        (66 * "胸", 66 * "胸"),
        (67 * "胸", 63 * "胸" + "-83d9f73f"),
    ],
)
def test_a_stem_keeps_letters_of_any_script(name: str, stem: str) -> None:
    assert file_stem(name) == stem


@given(st.lists(st.text(max_size=300), min_size=1, max_size=8))
def test_stems_are_legal_and_tell_names_apart(names: list[str]) -> None:
    stems = file_stems(names)
    for stem in stems:
        assert stem
        assert len(stem.encode()) <= 220
        assert not set(stem) & set("/\\:\0. $")
        assert not stem.startswith("-")
    assert len({stem.casefold() for stem in stems}) == len(set(names))


@given(st.lists(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1), max_size=5))
def test_csv_is_read_back_and_holds_no_formula(rows: list[list[str]]) -> None:
    content = csv_bytes(rows).decode()
    back = list(csv.reader(io.StringIO(content, newline="")))
    for given_row, row in zip(rows, back):
        for cell, read in zip(given_row, row):
            text = cell.replace("\r\n", "\n").replace("\r", "\n")
            assert read in (text, "'" + text)
            assert not read.startswith(("=", "@", "\t", "\r"))


def test_numbers_stay_numbers_in_csv() -> None:
    assert csv_bytes([["-1.5", "=1+1", "+a", -2.0, "x"]]) == b"-1.5,'=1+1,'+a,-2.0,x\n"
