"""What `benchmarks/gpu.sh` adds to the throughput: which targets hold, and a profile of one call of each rule.

python -m benchmarks.gpu targets FOLDER     # reads the folder's JSON files
python -m benchmarks.gpu profile --out FILE # needs a GPU
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.subjects import TARGET, explainer, network, pixels

PEERS = ("zennit", "lxt", "autolrp")


class Target(NamedTuple):
    """What a method's time beside saliency's is to be: batch 64, ResNet-18."""

    method: str
    precision: str
    ratio: float


TARGETS = tuple(
    Target(method, precision, ratio)
    for method, ratio in (("epsilon", 1.15), ("epsilon, compiled", 0.8), ("epsilon_plus_flat, compiled", 1.2))
    for precision in ("fp32", "bf16")
)
FASTER_THAN_PEERS = 1.5


def judged(rows: list[dict[str, Any]]) -> list[str]:
    """One line for each target of ResNet-18 at batch 64, and for each peer."""
    found = {(row["method"], row["precision"]): row["ratio"] for row in rows if row["network"] == "resnet18"}
    lines = []
    for method, precision, bound in TARGETS:
        ratio = found.get((method, precision))
        said = "not measured" if ratio is None else f"{ratio:.2f}: {'holds' if ratio <= bound else 'DOES NOT HOLD'}"
        lines.append(f"{method}, {precision}: at most {bound:.2f} of saliency; {said}")
    for (method, precision), ratio in found.items():
        peer, _, rule = method.partition(" ")
        own = found.get((rule, precision))
        if peer in PEERS and own is not None:
            times = ratio / own
            verdict = "holds" if times >= FASTER_THAN_PEERS else "DOES NOT HOLD"
            lines.append(
                f"{peer} is {times:.2f} times as slow as {rule}, {precision}: at least {FASTER_THAN_PEERS}; {verdict}"
            )
    return lines


def targets(folder: Path) -> None:
    """Prints the device and which targets hold, from the files of a run."""
    files = sorted(folder.glob("*.json"))
    if not files:
        raise SystemExit(f"no results in {folder}: run benchmarks/gpu.sh first")
    main_file = folder / "resnet18.json"
    for file in files:
        machine = json.loads(file.read_text()).get("machine", {})
        print(f"{file.name}: {machine.get('gpu', 'no GPU')}")
    rows = json.loads(main_file.read_text())["rows"] if main_file.exists() else []
    print("\n".join(judged(rows)))


def profile(out: Path) -> None:
    """One call of each rule under torch's profiler: its kernels, longest first."""
    device = torch.device("cuda")
    model, images = network("resnet18", device), pixels("resnet18", 64, device)
    pages = [torch.cuda.get_device_name(device)]
    for rule in ("epsilon", "zplus", "epsilon_plus_flat", "gamma", "alphabeta"):
        lrp = explainer(model, rule)
        for _ in range(3):
            lrp.attribute(images, target=TARGET)
        with torch.profiler.profile() as seen:
            lrp.attribute(images, target=TARGET)
            torch.cuda.synchronize()
        pages.append(f"{rule}\n{seen.key_averages().table(sort_by='cuda_time_total', row_limit=25)}")
    out.write_text("\n\n".join(pages))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    reading = commands.add_parser("targets")
    reading.add_argument("folder", type=Path)
    reading.set_defaults(act=lambda options: targets(options.folder))
    looking = commands.add_parser("profile")
    looking.add_argument("--out", type=Path, required=True)
    looking.set_defaults(act=lambda options: profile(options.out))
    options = parser.parse_args()
    options.act(options)


if __name__ == "__main__":
    main()
