"""The plan: which rule each operation gets."""

from __future__ import annotations

from lrp_plugin.composites.composite import Choice
from lrp_plugin.composites.site import Site


class Plan:
    """One line per operation, in order of execution; printable.

    Attributes:
        entries: Pairs of site and choice.
    """

    def __init__(self, entries: list[tuple[Site, Choice]]) -> None:
        self.entries = entries

    def __len__(self) -> int:
        return len(self.entries)

    def __str__(self) -> str:
        head = f"{'path':36} {'operation':22} {'rule':36} chosen by"
        lines = [
            f"{site.path[-36:]:36} {site.name[:22]:22} {choice.text[:36]:36} {choice.selector}"
            for site, choice in self.entries
        ]
        return "\n".join([head, "-" * len(head), *lines])

    __repr__ = __str__
