"""Tables as text and HTML, and the plan that is printed as one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from lrp_plugin.composites import Site
from lrp_plugin.plan import Plan
from lrp_plugin.tables import html_table, text_table

HEAD, ROWS = ("name", "n"), [("a rather long one", "7"), ("b", "1000")]


def test_columns_are_as_wide_as_their_longest_cell_and_numbers_stand_right() -> None:
    assert text_table(HEAD, ROWS, right=1) == [
        "name                  n",
        "-----------------------",
        "a rather long one     7",
        "b                  1000",
    ]
    assert text_table(HEAD, ROWS)[2:] == ["a rather long one  7", "b                  1000"]
    assert text_table(HEAD, []) == ["name  n", "-------"]


def test_html_is_escaped_and_has_its_foot() -> None:
    text = html_table("a < b", ("<i>", "n"), [("x & y", "1")], right=1, foot=("sum", "<1>"))
    assert "a &lt; b" in text and "x &amp; y" in text and "&lt;i&gt;" in text and "&lt;1&gt;" in text
    assert '<td style="text-align:left">x' in text and '<td style="text-align:right">1' in text
    assert text.count("<tr>") == 3 and "<tfoot>" in text and "<tfoot>" not in html_table("c", HEAD, ROWS)


def site(path: str, name: str = "linear") -> Site:
    return SimpleNamespace(path=path, name=name)  # type: ignore[return-value]


def choice(text: str) -> Any:
    return SimpleNamespace(text=text, selector="anything")


def test_a_plan_groups_what_is_alike_and_counts_operations() -> None:
    entries = [(site("a"), choice("zero")), (site("b"), choice("zero")), (site("", "relu"), choice("zero")),
               (site("c"), choice("flat")), (site("c"), choice("flat"))]  # fmt: skip
    plan = Plan(entries)
    lines = str(plan).splitlines()
    assert [line.split("  ")[0] for line in lines[2:-1]] == ["2 x linear", "1 x relu", "2 x linear"]
    assert lines[2].endswith("a ... b") and lines[3].endswith("(top)") and lines[4].endswith("  c")
    assert lines[-1] == "5 operations; table() has a line for each" and len(plan) == 5
    assert [line.split()[0] for line in plan.table().splitlines()[2:]] == ["a", "b", "(top)", "c", "c"]
    assert "5 operations" in plan._repr_html_() and "a ... b" in plan._repr_html_()
