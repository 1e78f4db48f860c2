"""The page of results, which is also their store: a row for each fault, read back and written again."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.mutation.fault import ROOT, Fault

PAGE = ROOT / "docs" / "planted-faults.md"
CAUGHT, SURVIVED, EQUIVALENT = "caught", "survived", "equivalent"
_HEAD = """# Planted faults

A test is worth what it catches. `python -m tests.mutation` plants one fault at a time in a scratch copy of the repository
(a swapped sign, a wrong axis, an option ignored, a check dropped), runs the tests that are to see it, and writes this page.
A fault is *caught* when a test fails, *equivalent* when nobody could see it, for the reason given.

"""
_ROW = re.compile(r"^\| `(?P<file>[^`]+)` \| (?P<what>.+?) \| (?P<outcome>\w+)(?:: .*)? \|$", re.M)


def read_page(page: Path = PAGE) -> dict[tuple[str, str], str]:
    """The outcome of each fault that was run before, by its key."""
    text = page.read_text() if page.exists() else ""
    return {(row["file"], _plain(row["what"])): row["outcome"] for row in _ROW.finditer(text)}


def write_page(faults: Sequence[Fault], outcomes: dict[tuple[str, str], str], page: Path = PAGE) -> None:
    """The page anew; faults without an outcome have no row, rows without a fault go."""
    known = [fault for fault in faults if fault.key in outcomes]
    counts = Counter(outcomes[fault.key] for fault in known)
    said = ", ".join(f"{counts[name]} {name}" for name in (CAUGHT, SURVIVED, EQUIVALENT) if counts[name])
    rows = [
        f"| `{fault.file}` | {_cell(fault.what)} | {outcomes[fault.key]}"
        f"{': ' + _cell(fault.equivalent) if fault.equivalent else ''} |"
        for fault in known
    ]
    table = "\n".join(["| file | what is wrong | outcome |", "|---|---|---|", *rows])
    page.write_text(f"{_HEAD}Of {len(known)} faults: {said}.\n\n{table}\n")


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def _plain(cell: str) -> str:
    return cell.replace(r"\|", "|")
