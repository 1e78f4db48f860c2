"""Files are whole or not there."""

from __future__ import annotations

import os
import stat

import pytest
from matplotlib.figure import Figure

from lrp_plugin.visualization import save_figure, write_atomically


def test_a_failure_while_writing_keeps_the_old_file_and_leaves_no_rest(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_files_have_the_permissions_an_ordinary_file_would_have(tmp_path):
    (tmp_path / "ordinary").write_bytes(b"")
    written = write_atomically(tmp_path / "a" / "written", b"content")
    assert written.read_bytes() == b"content"
    assert stat.S_IMODE(written.stat().st_mode) == stat.S_IMODE((tmp_path / "ordinary").stat().st_mode)


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_formats_follow_the_suffix(suffix, tmp_path):
    figure = Figure(figsize=(1, 1))
    figure.add_subplot().set_title("Title")
    start = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[suffix]
    content = save_figure(figure, tmp_path / f"figure.{suffix}").read_bytes()
    assert content.startswith(start)
    if suffix == "svg":
        assert b">Title</text>" in content, "text stays text, for editing and searching"


def test_a_path_without_suffix_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="suffix must be one of"):
        save_figure(Figure(), tmp_path / "figure")
    assert not list(tmp_path.iterdir())
