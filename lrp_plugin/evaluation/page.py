"""A comparison as HTML: a fragment for other pages, and a page of its own; no script, no other file."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from lrp_plugin.evaluation.comparison import interval_text

if TYPE_CHECKING:
    from lrp_plugin.evaluation.comparison import Comparison

STYLE = """
.lrp-comparison { font: 15px/1.45 system-ui, sans-serif; color: var(--ink, #1c2430); padding: 0; border: 0; }
.lrp-comparison .scroll { overflow-x: auto; }
.lrp-comparison table { border-collapse: collapse; font-size: 13px; white-space: nowrap; }
.lrp-comparison th, .lrp-comparison td { padding: 4px 7px; text-align: right; border-bottom: 1px solid var(--line, #dfe4ea); }
.lrp-comparison th:first-child, .lrp-comparison td:first-child {
  text-align: left; position: sticky; left: 0; background: var(--page, #fff); }
.lrp-comparison td.leads { font-weight: 650; background: var(--good-bg, #eef4ff); }
.lrp-comparison td.reason { text-align: left; color: var(--bad, #8a1020); white-space: normal; }
.lrp-comparison td small { color: var(--soft, #5f6b7a); font-weight: 400; }
.lrp-comparison img { max-width: 100%; height: auto; display: block; margin: 12px 0; background: #fff;
  border-radius: 6px; padding: 6px; box-sizing: border-box; }
.lrp-comparison p.note { color: var(--soft, #5f6b7a); font-size: 13px; max-width: 70em; }
@media screen and (max-width: 760px) {
  .lrp-comparison table, .lrp-comparison tbody, .lrp-comparison tr, .lrp-comparison th { display: block; }
  .lrp-comparison tr:first-child { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  .lrp-comparison td { display: flex; gap: .5em; justify-content: flex-end; border: 0; white-space: normal; }
  .lrp-comparison td::before { content: attr(data-head); margin-right: auto; color: var(--soft, #5f6b7a); font-weight: 400; }
  .lrp-comparison td:first-child { position: static; justify-content: flex-start; font-weight: 650; padding-top: 10px; }
  .lrp-comparison td:first-child::before { content: none; }
}
@media print {
  .lrp-comparison .scroll { overflow: visible; }
  .lrp-comparison table { font-size: 8.5px; white-space: normal; }
  .lrp-comparison th, .lrp-comparison td { padding: 2px 3px; }
}
"""


ARROWS = {True: "\u2191", False: "\u2193"}


def comparison_fragment(comparison: Comparison) -> str:
    """Table, curves, ranks and agreement inside one ``<section class="lrp-comparison">``, with its own style."""
    parts = [
        f'<section class="lrp-comparison" aria-label="Methods compared"><style>{STYLE}</style>',
        _table(comparison),
        _notes(comparison),
    ]
    for figure, text in _figures(comparison):
        parts.append(f'<img alt="{escape(text)}" src="{_url(figure)}">')
    return "\n".join([*parts, "</section>"])


def comparison_page(comparison: Comparison, title: str = "Explanations compared") -> str:
    """The fragment as a page."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    style = "margin: 24px auto; max-width: 1200px; padding: 0 16px; font-family: system-ui, sans-serif"
    body = f'<body style="{style}"><h1>{escape(title)}</h1>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n{body}\n{comparison_fragment(comparison)}</body></html>\n'


def _figures(comparison: Comparison) -> list[tuple[Figure, str]]:
    from lrp_plugin.evaluation.pictures import plot_agreement, plot_curves, plot_ranks

    found = []
    if comparison.curves:
        found.append((plot_curves(comparison), "Perturbation curves of the best methods, with bands"))
    if comparison.ranking():
        found.append((plot_ranks(comparison, comparison.sorted_by), "Mean ranks of the methods with intervals"))
    if bool((~comparison.agreement.isnan()).any()):
        found.append((plot_agreement(comparison), "Rank correlations between the methods' maps"))
    return found


def _table(comparison: Comparison) -> str:
    leaders = {metric: set(comparison.leaders(metric)) for metric in comparison.metrics}
    heads = [
        f'<th title="{escape(name)}">{escape(metric.title)} {ARROWS[metric.higher]}</th>'
        for name, metric in comparison.metrics.items()
    ]
    lines = [f"<tr><th>method</th>{''.join(heads)}<th>ms</th><th>MiB</th></tr>"]
    for name in comparison.ordered():
        cells = []
        for metric, measure in comparison.metrics.items():
            mean, _, rest = interval_text(comparison.interval(name, metric)).partition(" ")
            kind = ' class="leads"' if name in leaders[metric] else ""
            head = f' data-head="{escape(measure.title)} {ARROWS[measure.higher]}"'
            cells.append(f"<td{kind}{head}>{mean} <small>{rest}</small></td>")
        cost, reason = comparison.costs.get(name), comparison.reason(name)
        if name in comparison.failures:
            cells = [f'<td class="reason" colspan="{len(comparison.metrics)}">{escape(reason or "")}</td>']
        figures = "<td></td><td></td>"
        if cost:
            figures = f'<td data-head="ms">{1000 * cost.seconds:.1f}</td><td data-head="MiB">{cost.mebibytes:.1f}</td>'
        lines.append(f"<tr><td>{escape(name)}</td>{''.join(cells)}{figures}</tr>")
    around = '<div class="scroll" tabindex="0" role="region" aria-label="Methods and measures">'
    return f"{around}<table>{''.join(lines)}</table></div>"


def _notes(comparison: Comparison) -> str:
    texts = [
        f"{len(comparison.targets)} examples; mean and 95 % bootstrap interval, arrows to the better side. Shaded: the leader, "
        "and methods whose paired difference from it has 0 in its interval. ms for one example, MiB a call's peak."
    ]
    texts += [f"{name}: {reason}" for name in comparison.methods
              if name not in comparison.failures and (reason := comparison.reason(name))]  # fmt: skip
    return "".join(f'<p class="note">{escape(text)}</p>' for text in [*texts, *comparison.notes])


def _url(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
