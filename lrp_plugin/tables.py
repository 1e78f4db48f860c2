"""Tables as text, as wide as what they hold, and as HTML for notebooks."""

from __future__ import annotations

import html
from collections.abc import Sequence

from lrp_plugin.kinds import checked


@checked
def text_table(head: Sequence[str], rows: Sequence[Sequence[str]], right: int = 0) -> list[str]:
    """Lines of a table whose columns are as wide as their longest cell.

    Args:
        head: The columns' names.
        rows: The cells; as many as there are columns.
        right: So many columns at the end are numbers, set to the right.
    """
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    left = len(head) - right

    def line(cells: Sequence[str]) -> str:
        parts = [
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, widths))
        ]
        return "  ".join(parts).rstrip()

    return [line(head), "-" * (sum(widths) + 2 * (len(widths) - 1)), *(line(row) for row in rows)]


@checked
def html_table(
    caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], right: int = 0, foot: Sequence[str] | None = None
) -> str:
    """The same as HTML, in a frame that scrolls sideways.

    Args:
        caption: Above the table.
        head, rows, right: As in `text_table`.
        foot: A last row, in bold.
    """
    left = len(head) - right

    def line(cells: Sequence[str], tag: str) -> str:
        parts = (
            f'<{tag} style="text-align:{"left" if place < left else "right"}">{html.escape(cell)}</{tag}>'
            for place, cell in enumerate(cells)
        )
        return f"<tr>{''.join(parts)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    last = f"<tfoot>{line(foot, 'th')}</tfoot>" if foot is not None else ""
    return (
        f'<div style="overflow-x:auto"><table><caption style="text-align:left">{html.escape(caption)}</caption>'
        f"<thead>{line(head, 'th')}</thead><tbody>{body}</tbody>{last}</table></div>"
    )
