"""Time per call and images per second of every rule, beside Captum's gradient saliency.

python -m benchmarks.throughput --device auto            # everything, about an hour on two cores
python -m benchmarks.throughput --quick                  # ResNet-18, small, under three minutes on two cores
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.chart import bar_chart
from benchmarks.harness import RESULTS, choose_device, describe_machine, paired, table, write_json
from benchmarks.subjects import NETWORKS, RULES, VIT_RULES, network, ours, peers, pixels, saliency

COLUMNS = ["network", "batch", "precision", "method", "milliseconds", "spread_ms", "images_per_second", "ratio",
           "ratio_low", "ratio_high", "peak_mib"]  # fmt: skip


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--rules", nargs="+", help="default: all of a network's kind")
    parser.add_argument("--batch", type=int, help="default: the network's own, 64 on a GPU")
    parser.add_argument("--side", type=int, help="pixels, default 224")
    parser.add_argument("--precisions", nargs="+", default=["fp32"], choices=("fp32", "tf32", "bf16"))
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--trainable", action="store_true", help="parameters require gradients, as a model comes")
    parser.add_argument("--compile", nargs="?", const="default", choices=("default", "reduce-overhead"))
    parser.add_argument("--peers", action="store_true", help="also the peers that are installed")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--cpu-time", action="store_true", help="one thread's time on the CPU: for a busy machine")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, help="JSON file; the chart lies beside it")
    return parser.parse_args()


def candidates(name: str, model: Any, images: Any, precision: str, options: argparse.Namespace) -> dict[str, Callable]:
    """The calls to be timed, by name."""
    rules = options.rules or (VIT_RULES if name.startswith("vit") else RULES)
    found: dict[str, Callable] = {rule: ours(model, images, rule, precision) for rule in rules}
    if options.compile:
        mode: bool | str = True if options.compile == "default" else options.compile
        for rule in rules:
            found[f"{rule}, compiled"] = ours(model, images, rule, precision, mode)
    if options.peers:
        found |= peers(name, model, images)
    return found


def _runs(call: Callable, name: str) -> bool:
    try:
        call()
    except Exception as error:  # a peer that cannot explain this network is left out of the table, and said to be
        print(f"left out: {name}: {type(error).__name__}: {str(error).splitlines()[0][:90] if str(error) else ''}")
        return False
    return True


def peak(call: Callable, device: torch.device) -> float | None:
    """Peak memory of a call on a GPU, MiB; `benchmarks.memory` counts it on a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    call()
    return float(torch.cuda.max_memory_allocated(device)) / 2**20


def measure(name: str, precision: str, device: torch.device, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One network at one precision: a row for the baseline and for each candidate."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    batch = options.batch or (64 if device.type == "cuda" else NETWORKS[name][0])
    model = network(name, device, options.channels_last).requires_grad_(options.trainable)
    images = pixels(name, batch, device, options.side)
    if options.channels_last:
        images = images.to(memory_format=torch.channels_last)
    base = saliency(model, images, precision)
    calls = {key: call for key, call in candidates(name, model, images, precision, options).items() if _runs(call, key)}
    rows = []
    for timing in paired(base, calls, device, options.rounds, 1 if options.quick else 2, cpu_time=options.cpu_time):
        call = calls.get(timing.name, base)
        rows.append({
            "network": name, "batch": batch, "precision": precision, "method": timing.name,
            "milliseconds": timing.seconds * 1e3, "spread_ms": timing.spread * 1e3,
            "images_per_second": batch / timing.seconds, "ratio": timing.ratio, "ratio_low": timing.ratio_low,
            "ratio_high": timing.ratio_high, "peak_mib": peak(call, device), "rounds": timing.rounds,
        })  # fmt: skip
    return rows


def main() -> None:
    """Measures, prints a table, writes JSON and a chart."""
    options = arguments()
    device = choose_device(options.device)
    torch.set_num_threads(1 if options.cpu_time else options.threads)
    if options.quick:
        options.networks, options.rounds = ["resnet18"], min(options.rounds, 7)
        options.batch = options.batch or 2
        options.rules = options.rules or ["epsilon", "zplus", "epsilon_plus_flat", "gamma", "alphabeta"]
    out = options.out or RESULTS / f"throughput_{device.type}{'_quick' if options.quick else ''}.json"
    settings = {
        "channels_last": options.channels_last,
        "trainable": options.trainable,
        "clock": "cpu" if options.cpu_time else "wall",
    }
    rows: list[dict[str, Any]] = []
    for name in options.networks:
        for precision in options.precisions:
            rows += measure(name, precision, device, options)
            print(table(rows, COLUMNS), flush=True)
            write_json(out, {"machine": describe_machine(device), **settings, "rows": rows})
    bar_chart(rows, out.with_suffix(".png"), f"Time of a call / Captum Saliency's ({device.type})")
    print(f"written: {out}, {out.with_suffix('.png')}")


if __name__ == "__main__":
    main()
