"""Peak memory of a call against gradient saliency's.

    python -m benchmarks.memory --networks resnet18

On a CPU every allocation and release that PyTorch makes is recorded and added up: the process's resident size would
also count what the allocator keeps. Parameters are frozen, so that saliency holds as little as it can; with
``--trainable`` they require gradients, as those of a model just built or trained do: saliency then keeps the layers' inputs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.harness import RESULTS, choose_device, describe_machine, table, write_json
from benchmarks.subjects import NETWORKS, RULES, VIT_RULES, network, ours, pixels, saliency


def peak_bytes(call: Callable[[], Any], device: torch.device) -> int:
    """The most that one call holds at a time, beyond what was held before."""
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    changes = [
        (event.start_ns(), event.nbytes())
        for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"
    ]  # fmt: skip
    held = highest = 0
    for _, change in sorted(changes):
        held += change
        highest = max(highest, held)
    return highest


def measure(name: str, batch: int, device: torch.device, side: int | None, trainable: bool) -> list[dict[str, Any]]:
    """One row for the baseline and each rule."""
    model, images = network(name, device).requires_grad_(trainable), pixels(name, batch, device, side)
    rows = []
    base = peak_bytes(saliency(model, images), device)
    for rule in ("saliency", *(VIT_RULES if name.startswith("vit") else RULES)):
        peak = base if rule == "saliency" else peak_bytes(ours(model, images, rule), device)
        rows.append({"network": name, "batch": batch, "method": rule, "mib": peak / 2**20, "ratio": peak / base})
    return rows


def main() -> None:
    """Measures, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--side", type=int, help="pixels, default 224")
    parser.add_argument("--trainable", action="store_true", help="parameters that require gradients, as a model comes")
    options = parser.parse_args()
    device = choose_device(options.device)
    rows = [
        row
        for name in options.networks
        for row in measure(name, options.batch, device, options.side, options.trainable)
    ]
    print(table(rows, ["network", "batch", "method", "mib", "ratio"]))
    out = RESULTS / f"memory_{device.type}{'_trainable' if options.trainable else ''}.json"
    write_json(out, {"machine": describe_machine(device), "rows": rows})


if __name__ == "__main__":
    main()
