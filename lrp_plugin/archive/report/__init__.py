"""HTML pages over an archive: how relevance is distributed in each class, and its examples, the worst first."""

from lrp_plugin.archive.report.page import write_archive_report
from lrp_plugin.archive.report.summary import Case, Summary, summarize

__all__ = ["Case", "Summary", "summarize", "write_archive_report"]
