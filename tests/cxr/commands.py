"""The command line on a run folder, and what lies in it."""

from __future__ import annotations

from pathlib import Path

from lrp_plugin.cli import main


def cxr(action: str, out: Path, *more: str) -> int:
    return main(["cxr", action, "--out", str(out), "--no-progress", *more])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
