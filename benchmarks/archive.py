"""An archive's throughput beside a bare loop, paired, and its memory while it grows: ``python -m benchmarks.archive``.

    python -m benchmarks.archive pair LIST --run RUN --items 1000 --rounds 3
    python -m benchmarks.archive memory LIST ARCHIVE --run RUN

LIST is a CSV of radiographs, RUN a run folder of ``lrp-plugin cxr train``. The bare loop reads the same files in the same
batches and explains them with the same methods in one process; it keeps nothing, so what the archive does beside (checksums,
pooling, packing, Parquet, Ray) is overhead. Rounds alternate; the ratio is the median of the rounds' own. Items a second,
and milliseconds of processor time an item, which say more on a machine that others use too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from lrp_plugin.archive import Machines, Maps, Method, ModelSource, Settings, explain_archive
from lrp_plugin.archive.items import Plan, read_items, write_items
from lrp_plugin.archive.models import defaults_of
from lrp_plugin.archive.pictures import read_items as read_pictures
from lrp_plugin.archive.settings import Picture
from lrp_plugin.archive.work import batches
from lrp_plugin.attribution import UnifiedLRP

METHODS = ("epsilon", "epsilon_plus_flat")


def settings(run: str, chunk: int, threads: int) -> Settings:
    """Two methods, maps pooled to 64 pixels."""
    source = ModelSource(run)
    picture = Picture(**defaults_of(source)[0])
    methods = tuple(Method(name) for name in METHODS)
    return Settings(source, methods, picture=picture, maps=Maps(size=(64, 64)), chunk=chunk, threads=threads)


def part_of(source: str, items: int, folder: Path) -> str:
    """A list of the first items, absolute paths, without masks: both sides read the same files."""
    table = read_items(source).slice(0, items)
    lines = ["id,path", *(f"{row['id']},{row['source']}" for row in table.to_pylist())]
    (folder / "list.csv").write_text("\n".join(lines) + "\n")
    return str(folder / "list.csv")


def bare(source: str, made: Settings, threads: int, folder: Path) -> tuple[float, float]:
    """Seconds of the loop, and of the processor, after one chunk to warm up."""
    torch.set_num_threads(threads)
    model = made.model.make()
    methods = [UnifiedLRP(model, "epsilon"), UnifiedLRP(model, composite="epsilon_plus_flat")]
    write_items(str(folder), 0, read_items(source), made.chunk)
    plan = Plan(str(folder))
    began, busy = 0.0, 0.0
    for number, chunk in enumerate([0, *range(plan.chunks)]):
        if number == 1:
            began, busy = time.perf_counter(), time.process_time()
        items = plan.items(chunk)
        for part in batches(items, made.batch):
            images = torch.from_numpy(read_pictures(items[part], made.picture)[0])
            with torch.no_grad():
                target = model(images).argmax(1)
            for method in methods:
                method.attribute(images, target)
    return time.perf_counter() - began, time.process_time() - busy


def archived(source: str, archive: str, made: Settings, actors: int | None) -> dict[str, float]:
    """Seconds in all; seconds and processor seconds for each item between the first file that came and the last."""
    times: list[tuple[float, int, dict[str, float]]] = []
    began = time.perf_counter()
    explain_archive(
        source, archive, made, machines=Machines(cpus=2, actors=actors),
        report=lambda progress: times.append((time.perf_counter(), progress.done, _processor())),
    )  # fmt: skip
    whole = time.perf_counter() - began
    (first, done, before), (last, items, after) = times[1], times[-1]
    count = items - done
    processor = {f"processor_{name}": 1000 * (after[name] - before[name]) / count for name in after}
    return {"whole": whole, "each": (last - first) / count, **processor}


def _processor() -> dict[str, float]:
    """Processor seconds so far, by kind of process."""
    own = psutil.Process()
    found = {"driver": sum(own.cpu_times()[:2]), "actors": 0.0, "workers": 0.0, "ray": 0.0}
    for process in own.children(recursive=True):
        try:
            name = " ".join(process.cmdline())
            ours = "ExplainChunks" in name, "Map(" in name or "IDLE" in name
            found["actors" if ours[0] else "workers" if ours[1] else "ray"] += sum(process.cpu_times()[:2])
        except psutil.NoSuchProcess:
            pass
    return found


def pair(options: argparse.Namespace) -> dict[str, Any]:
    """Rounds of both, one after the other."""
    rounds = []
    for _ in range(options.rounds):
        row: dict[str, float] = {}
        for threads in options.bare_threads:
            with tempfile.TemporaryDirectory() as folder:
                source = part_of(options.list, options.items, Path(folder))
                made = settings(options.run, options.chunk, options.threads)
                seconds, processor = bare(source, made, threads, Path(folder) / "bare")
                row[f"bare_{threads}"] = options.items / seconds
                row[f"processor_bare_{threads}"] = 1000 * processor / options.items
        with tempfile.TemporaryDirectory() as folder:
            source = part_of(options.list, options.items, Path(folder))
            found = archived(source, str(Path(folder) / "archive"), made, options.actors)
            whole, each = found.pop("whole"), found.pop("each")
            started = whole - options.items * each
            row.update(archive=1 / each, archive_with_start=options.items / whole, started=started, **found)
        rounds.append(row)
        print(json.dumps({name: round(value, 2) for name, value in row.items()}), flush=True)
    names = [f"bare_{threads}" for threads in options.bare_threads]
    ratios = {name: statistics.median(row["archive"] / row[name] for row in rounds) for name in names}
    return {"rounds": rounds, "ratio": ratios, "load": psutil.getloadavg(), "settings": vars(options)}


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """Resident and shared memory of driver, actors and other workers as items come in."""
    rows: list[dict[str, float]] = []
    seen = {"done": 0}
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(2):
            rows.append({"done": seen["done"], **_memory()})

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    began = time.perf_counter()
    explain_archive(
        options.list, options.archive, settings(options.run, options.chunk, options.threads), machines=Machines(cpus=2),
        report=lambda progress: seen.update(done=progress.done),
    )  # fmt: skip
    stop.set()
    watcher.join()
    steps: dict[int, dict[str, float]] = {}
    for row in rows:
        step = int(row["done"] // 1000) * 1000
        steps[step] = {name: max(value, steps.get(step, {}).get(name, 0)) for name, value in row.items()}
    return {"seconds": time.perf_counter() - began, "greatest_while": steps}


def _memory() -> dict[str, float]:
    """MB: unique memory of the driver and of Ray's workers, and what of the object store is touched."""
    found = {"driver": 0.0, "actors": 0.0, "workers": 0.0, "store": 0.0}
    own = psutil.Process()
    found["driver"] = own.memory_full_info().uss / 1e6
    for process in own.children(recursive=True):
        try:
            name = " ".join(process.cmdline())
            if "ExplainChunks" in name:
                found["actors"] += process.memory_full_info().uss / 1e6
            elif "ray::" in name:
                found["workers"] += process.memory_full_info().uss / 1e6
            elif "raylet" in name:
                found["store"] = max(found["store"], process.memory_info().shared / 1e6)
        except psutil.NoSuchProcess:
            pass
    return found


def main() -> None:
    """Measures, prints and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("pair", "memory"))
    parser.add_argument("list")
    parser.add_argument("archive", nargs="?")
    parser.add_argument("--run", required=True)
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--actors", type=int)
    parser.add_argument("--bare-threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = pair(options) if options.what == "pair" else memory(options)
    text = json.dumps(found, indent=2, default=str)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
