"""The table of planted faults does not rot: every text is where it was, every test exists, no fault is there twice."""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from tests.mutation.fault import ROOT, Fault
from tests.mutation.faults import every_fault
from tests.mutation.page import CAUGHT, SURVIVED, read_page, write_page

FAULTS = every_fault()


@cache
def named_in(path: Path) -> frozenset[str]:
    return frozenset(node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef))


def test_every_fault_can_still_be_planted() -> None:
    for fault in FAULTS:
        planted = fault.planted_in(fault.place.read_text())
        assert fault.text != fault.replacement, fault.what
        ast.parse(planted, fault.file)


def test_every_named_test_exists() -> None:
    for fault in FAULTS:
        assert fault.tests, fault.what
        for test in fault.tests:
            file, _, name = test.partition("::")
            assert (ROOT / file).exists(), test
            assert not name or name.partition("[")[0] in named_in(ROOT / file), test


def test_no_fault_is_named_twice() -> None:
    assert not [key for key, count in Counter(fault.key for fault in FAULTS).items() if count > 1]


def test_a_fault_whose_text_is_gone_or_there_twice_says_so() -> None:
    one = Fault("a.py", "wrong", "x", "y", ("tests/x.py",))
    for source, count in (("z", 0), ("xx", 2)):
        with pytest.raises(ValueError, match=f"occurs {count} times"):
            one.planted_in(source)


def test_the_page_keeps_what_was_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    faults = [Fault("a.py", "a | b", "x", "y", ()), Fault("b.py", "c", "x", "y", (), "the same, by symmetry")]
    outcomes = {faults[0].key: CAUGHT, faults[1].key: SURVIVED}
    write_page(faults, outcomes, page)
    assert read_page(page) == outcomes
    write_page(faults[1:], outcomes, page)
    assert read_page(page) == {faults[1].key: SURVIVED}
