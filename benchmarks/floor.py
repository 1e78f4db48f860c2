"""The floor: how much convolution and matrix work each rule does, counted, against gradient saliency's.

    python -m benchmarks.floor --networks resnet18 vgg16

A rule's own elementwise work is not counted: what a measured ratio has above this one is that, and Python.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import RESULTS, choose_device, describe_machine, table, write_json
from benchmarks.subjects import NETWORKS, RULES, VIT_RULES, network, ours, pixels, saliency


def work(call: Callable[[], Any]) -> dict[str, int]:
    """Floating-point operations of a call: in all, and of forward and backward applications."""
    call()  # modified weights are made once
    with FlopCounterMode(display=False) as counter:
        call()
    counted = counter.get_flop_counts()["Global"]
    backward = sum(flops for operation, flops in counted.items() if "backward" in str(operation))
    return {"total": counter.get_total_flops(), "backward": backward}


def measure(name: str, device: torch.device, side: int | None) -> list[dict[str, Any]]:
    """One row for the baseline and each rule."""
    model, images = network(name, device), pixels(name, 1, device, side)
    rows = []
    base = work(saliency(model, images))
    for rule in ("saliency", *(VIT_RULES if name.startswith("vit") else RULES)):
        counted = base if rule == "saliency" else work(ours(model, images, rule))
        rows.append({
            "network": name, "method": rule, "gflop": counted["total"] / 1e9,
            "backward_gflop": counted["backward"] / 1e9, "ratio": counted["total"] / base["total"],
        })  # fmt: skip
    return rows


def main() -> None:
    """Counts, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--side", type=int, help="pixels, default 224")
    options = parser.parse_args()
    device = choose_device(options.device)
    rows = [row for name in options.networks for row in measure(name, device, options.side)]
    print(table(rows, ["network", "method", "gflop", "backward_gflop", "ratio"]))
    write_json(RESULTS / "floor.json", {"machine": describe_machine(device), "rows": rows})


if __name__ == "__main__":
    main()
