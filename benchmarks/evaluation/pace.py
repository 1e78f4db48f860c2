"""How long ``compare`` takes, and what it holds: eight methods, four measures, the small residual CNN, 50 to 400 pictures.

Each count in a process of its own, whose peak of resident memory is its own.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from typing import Any

from benchmarks.evaluation.networks import trained
from benchmarks.evaluation.tables import FOLDER, sick
from benchmarks.harness import write_json
from lrp_plugin.evaluation import compare
from lrp_plugin.evaluation.regions import patches

METHODS = (
    "saliency", "input_x_gradient", "integrated_gradients", "gradcam", "epsilon", "zplus", "alphabeta", "epsilon_plus_flat",
)  # fmt: skip
METRICS = ("srg", "road", "mask_share", "stability")


def once(count: int) -> dict[str, Any]:
    """Seconds of wall clock and of processor for ``count`` pictures, and this process's peak of memory in MiB."""
    model, data = trained("reference_cnn"), sick(count)
    begin, worked = time.perf_counter(), time.process_time()
    found = compare(model, data, METHODS, METRICS, regions=patches(8), progress=False)
    row = {"pictures": len(data[0]), "wall_s": time.perf_counter() - begin, "processor_s": time.process_time() - worked}
    failed = [method for method in METHODS if found.reason(method)]
    return {**row, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "failed": failed}


def measure(counts: tuple[int, ...] = (50, 200, 400)) -> list[dict[str, Any]]:
    """One row for each count."""
    rows = []
    for count in counts:
        code = f"import json; from benchmarks.evaluation.pace import once; print(json.dumps(once({count})))"
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
    write_json(FOLDER / "pace.json", {"methods": METHODS, "metrics": METRICS, "rows": rows})
    return rows
