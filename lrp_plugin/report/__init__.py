"""One self-contained HTML page on any image classifier: how well it works, and on what evidence.

    >>> write_report("report.html", Report(title=..., region="the animal", examples=[...], ...))

Needs Jinja2 (``pip install 'lrp-plugin[report]'``). The page holds its pictures, style and script, loads nothing, and opens
from a file; where examples name files instead (an archive), it links them and they are loaded as they are scrolled to.
"""

from lrp_plugin.evaluation.evidence import Localisation, RemovalTest
from lrp_plugin.report.data import Example, Explanation, Metric, Report, Section
from lrp_plugin.report.findings import Suspicion, outside, suspicions
from lrp_plugin.report.page import render_report, write_report
from lrp_plugin.report.pictures import layer_png

__all__ = [
    "Example", "Explanation", "Localisation", "Metric", "RemovalTest", "Report", "Section", "Suspicion", "layer_png",
    "outside", "render_report", "suspicions", "write_report",
]  # fmt: skip
