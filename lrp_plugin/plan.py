"""The plan: which rule each operation gets."""

from __future__ import annotations

from lrp_plugin.composites.composite import Choice
from lrp_plugin.composites.site import Site
from lrp_plugin.tables import html_table, text_table

HEAD = ("operations", "rule", "chosen by", "where")


class Plan:
    """Which rule each operation got; prints a line for each different choice, `table` one for each operation.

    Attributes:
        entries: Pairs of site and choice, in order of execution.
    """

    def __init__(self, entries: list[tuple[Site, Choice]]) -> None:
        self.entries = entries

    def __len__(self) -> int:
        return len(self.entries)

    def table(self) -> str:
        """One line per operation, in order of execution."""
        rows = [(site.path or "(top)", site.name, choice.text, choice.selector) for site, choice in self.entries]
        return "\n".join(text_table(("path", "operation", "rule", "chosen by"), rows))

    def _grouped(self) -> list[tuple[str, ...]]:
        groups: dict[tuple[str, str, str], list[str]] = {}
        for site, choice in self.entries:
            groups.setdefault((site.name, choice.text, choice.selector), []).append(site.path or "(top)")
        return [
            (
                f"{len(paths)} x {name}",
                rule,
                selector,
                paths[0] if len(set(paths)) == 1 else f"{paths[0]} ... {paths[-1]}",
            )
            for (name, rule, selector), paths in groups.items()
        ]

    def __str__(self) -> str:
        lines = text_table(HEAD, self._grouped())
        return "\n".join([*lines, f"{len(self)} operations; table() has a line for each"])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html_table(f"{len(self)} operations; table() has a line for each", HEAD, self._grouped())
