"""checklist.md names a test for every row, and every test it names exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from lrp_plugin.pyhealth import SyntheticCXR, split_by_sample

ROOT = Path(__file__).parents[2]
ROWS = [*range(1, 51), *range(54, 60), 61, 63]
CHECKLIST = (ROOT / "tests" / "pyhealth" / "checklist.md").read_text()
LINES = [line for line in CHECKLIST.splitlines() if re.match(r"\| \d+ \|", line)]


@cache
def _tests_of(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def test_every_row_is_there_once_in_order() -> None:
    assert [int(line.split("|")[1]) for line in LINES] == ROWS


@pytest.mark.parametrize("line", LINES, ids=[line.split("|")[1].strip() for line in LINES])
def test_every_named_test_exists(line: str) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", line)
    assert named, "the row names no test"
    for file, test in named:
        assert (ROOT / file).is_file(), file
        assert test in _tests_of(ROOT / file), f"{file} has no {test}"


@pytest.mark.parametrize("ratios", [[0.7, 0.2, 0.1], [0.6, 0.3, 0.1]])
def test_ratios_that_pyhealth_refuses_are_taken(ratios: list[float]) -> None:
    """0.7 + 0.2 + 0.1 is 0.9999999999999999 before Python 3.12, and PyHealth asserts on equality."""
    parts = split_by_sample(SyntheticCXR(n=100, size=32), ratios)
    assert [len(part) for part in parts] == [round(100 * ratio) for ratio in ratios]
