"""The code of the documentation's pages runs as it is printed, each page from top to bottom."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("page", ["language-models", "graphs-tables-modalities"])
def test_a_page_runs_as_printed(page: str) -> None:
    """Without a warning of the package: what a page shows is what is meant to be done."""
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    if "transformers" in text:
        pytest.importorskip("transformers")
    blocks = list(re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    assert blocks
    held: dict[str, Any] = {"__name__": page}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="lrp_plugin")
        for block in blocks:
            line = text[: block.start(1)].count("\n")
            code = compile("\n" * line + block[1], str(DOCS / f"{page}.md"), "exec")
            exec(code, held)
