"""An archive without Ray: the same three steps, chunk by chunk, in this process."""

from __future__ import annotations

from pathlib import Path

from lrp_plugin.archive import Manifest, Settings, chunks
from lrp_plugin.archive.items import Plan, read_items, write_items
from lrp_plugin.archive.rows import MEASURED, SCHEMA
from lrp_plugin.archive.work import ExplainChunks, read_chunk, write_chunk


def explain_by_hand(source: Path, archive: Path, settings: Settings) -> None:
    """Makes the archive's files in order."""
    url, manifest = str(archive), Manifest.of(settings, settings.model.make(), {"source": str(source), "classes": None})
    write_items(url, 0, read_items(str(source)), settings.chunk)
    manifest.write(url)
    plan, explainer = Plan(url), ExplainChunks(settings, manifest.archive)
    for chunk in range(plan.chunks):
        row = read_chunk({"chunk": chunk}, url=url, settings=settings, generations=plan.generations)
        write_chunk(explainer(row), url=url)


def contents(archive: Path) -> list[dict[str, object]]:
    """Every row of an archive's files, every column but the measured times, in the order of the plan."""
    plan, rows = Plan(str(archive)), []
    for chunk in range(plan.chunks):
        with chunks.opened(str(archive), chunk) as file:
            rows += file.read(columns=[name for name in SCHEMA.names if name not in MEASURED]).to_pylist()
    return rows
