"""The floor: how much convolution and matrix work each rule does, counted, against gradient saliency's.

    python -m benchmarks.floor --networks resnet18 vgg16

A rule's own elementwise work is not counted: what a measured ratio has above this one is that, and Python.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.harness import RESULTS, choose_device, describe_machine, table, write_json
from benchmarks.subjects import NETWORKS, RULES, VIT_RULES, network, ours, pixels, saliency


class Work(TorchDispatchMode):
    """Counts operations by torch's own formulas.

    `FlopCounterMode` itself follows modules with hooks on the autograd graph, which `torch.autograd.grad` refuses.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation and adds its cost."""
        value = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops[str(func._overloadpacket)] += formula(*args, **(kwargs or {}), out_val=value)
        return value


def work(call: Callable[[], Any]) -> dict[str, int]:
    """Floating-point operations of a call: in all, and of input-gradients."""
    call()  # modified weights are made once
    with Work() as counter:
        call()
    backward = sum(flops for operation, flops in counter.flops.items() if "backward" in operation)
    return {"total": counter.flops.total(), "backward": backward}


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
