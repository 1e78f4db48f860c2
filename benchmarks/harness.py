"""Paired timing: every candidate is timed beside the baseline, in one process, call by call.

A machine's load moves the time of a call by far more than the differences measured here. Each round therefore times
the baseline and every candidate directly after one another, in an order that changes, and the figure reported is the
median over rounds of the ratio within the round.
"""

from __future__ import annotations

import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Timing:
    """What was measured of one candidate.

    Args:
        name: The candidate.
        seconds: Median time of a call.
        spread: Interquartile range of the times, in seconds.
        ratio: Median over rounds of time / the baseline's time in that round.
        ratio_low, ratio_high: The quartiles of that ratio.
        rounds: How many rounds were timed.
    """

    name: str
    seconds: float
    spread: float
    ratio: float
    ratio_low: float
    ratio_high: float
    rounds: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values, JSON-ready."""
        return asdict(self)


def choose_device(name: str) -> torch.device:
    """``"auto"`` is the GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def time_call(call: Callable[[], Any], device: torch.device, cpu_time: bool = False) -> float:
    """Seconds of one call: CUDA events on a GPU, elsewhere the wall clock, or this thread's time on the CPU."""
    if device.type != "cuda":
        clock = time.thread_time if cpu_time else time.perf_counter
        start = clock()
        call()
        return clock() - start
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    begin.record()
    call()
    end.record()
    torch.cuda.synchronize(device)
    return float(begin.elapsed_time(end)) / 1e3


def paired(
    baseline: Callable[[], Any], candidates: Mapping[str, Callable[[], Any]], device: torch.device,
    rounds: int = 21, warmup: int = 2, seed: int = 0, cpu_time: bool = False,
) -> list[Timing]:  # fmt: skip
    """Times the baseline and every candidate, interleaved.

    ``cpu_time`` counts the calling thread's time on the CPU and wants ``torch.set_num_threads(1)``: for a machine that
    others keep busy, where a call of half a second takes five.

    Returns:
        One `Timing` for the baseline (``"baseline"``, ratio 1), then one for each candidate.
    """
    calls = {"baseline": baseline, **candidates}
    for call in calls.values():
        for _ in range(warmup):
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    order, shuffle = list(calls), random.Random(seed)
    for _ in range(rounds):
        shuffle.shuffle(order)
        for name in order:
            times[name].append(time_call(calls[name], device, cpu_time))
    return [_timing(name, times[name], times["baseline"]) for name in calls]


def _timing(name: str, times: list[float], baseline: list[float]) -> Timing:
    low, middle, high = _quartiles(times)
    ratio_low, ratio, ratio_high = _quartiles([mine / theirs for mine, theirs in zip(times, baseline)])
    return Timing(name, middle, high - low, ratio, ratio_low, ratio_high, len(times))


def describe_machine(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on."""
    described: dict[str, Any] = {
        "device": str(device), "platform": platform.platform(), "processor": _processor(), "cores": os.cpu_count(),
        "threads": torch.get_num_threads(), "load": [round(x, 2) for x in os.getloadavg()],
        "python": platform.python_version(), "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(), "date": time.strftime("%Y-%m-%d %H:%M"),
    }  # fmt: skip
    if device.type == "cuda":
        described["gpu"] = torch.cuda.get_device_name(device)
        described["cuda"] = torch.version.cuda
        described["tf32"] = torch.backends.cuda.matmul.allow_tf32
    return described


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def write_json(path: Path, content: Any) -> None:
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    with os.fdopen(handle, "w") as file:
        json.dump(content, file, indent=1)
        file.write("\n")
    os.chmod(name, 0o644)
    os.replace(name, path)


def table(rows: list[dict[str, Any]], columns: list[str]) -> str:
    """Rows of values as aligned text."""
    cells = [[_shown(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(column), *(len(line[place]) for line in cells)) for place, column in enumerate(columns)]
    lines = ["  ".join(value.rjust(width) for value, width in zip(line, widths)) for line in [columns, *cells]]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
