"""One self-contained HTML page on a chest X-ray model: how well it works, and on what evidence.

    >>> write_report("report.html", Report(title=..., metrics=[...], confusion=..., examples=[...], ...))

Needs Jinja2. The page holds its pictures, style and script, loads nothing, and opens from a file.
"""

from lrp_plugin.cxr.report.data import Example, Explanation, Localisation, MarkerTest, Metric, Report
from lrp_plugin.cxr.report.findings import Shortcut, outside, shortcuts
from lrp_plugin.cxr.report.page import render_report, write_report

__all__ = [
    "Example",
    "Explanation",
    "Localisation",
    "MarkerTest",
    "Metric",
    "Report",
    "Shortcut",
    "outside",
    "render_report",
    "shortcuts",
    "write_report",
]
