"""A bar chart of ratios to gradient saliency."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

_PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")


def bar_chart(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """One bar for each network and method; the whiskers are the quartiles of the ratio."""
    shown = [row for row in rows if row["method"] != "baseline"]
    networks = list(dict.fromkeys((row["network"], row["batch"], row["precision"]) for row in shown))
    figure = Figure(figsize=(8, 1.2 + 0.26 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(shown):
        group = networks.index((row["network"], row["batch"], row["precision"]))
        whiskers = [[max(row["ratio"] - row["ratio_low"], 0)], [max(row["ratio_high"] - row["ratio"], 0)]]
        axes.barh(place, row["ratio"], color=_PALETTE[group % len(_PALETTE)], xerr=whiskers, ecolor="0.4")
        axes.text(row["ratio_high"], place, f"  {row['ratio']:.2f}", va="center", fontsize=8)
    labels = [f"{row['network']} b{row['batch']} {row['precision']}  {row['method']}" for row in shown]
    axes.set_yticks(range(len(shown)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlabel("ratio to gradient saliency, median of paired calls (1 = as fast)")
    axes.set_title(title)
    axes.margins(x=0.12)
    figure.savefig(path, dpi=130)
