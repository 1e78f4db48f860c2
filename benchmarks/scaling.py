"""How the cost grows with depth, width, image side, batch, sequence length and number of targets.

    python -m benchmarks.scaling --quick

Each line fits ``time = c * size ** exponent`` to the median times of one method; saliency's exponent stands beside it.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

import torch
from captum.attr import Saliency
from torch import Tensor, nn

from benchmarks.harness import RESULTS, choose_device, describe_machine, paired, table, write_json
from lrp_plugin import UnifiedLRP

AXES = {
    "depth": (4, 8, 16, 32), "width": (16, 32, 64, 128), "side": (16, 32, 64, 128), "batch": (1, 2, 4, 8, 16),
    "sequence": (64, 128, 256, 512), "targets": (1, 2, 5, 10),
}  # fmt: skip
START = {"depth": 8, "width": 32, "side": 32, "batch": 4}


def convolutional(depth: int, width: int) -> nn.Module:
    """``depth`` convolutions of ``width`` channels, ReLU between them."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for place in range(depth):
        layers += [nn.Conv2d(width if place else 3, width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)).eval()


class _Sequence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(64, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(tokens).mean(1))
        return out


def subject(axis: str, size: int, device: torch.device) -> tuple[nn.Module, Tensor]:
    """The network and input of one point of an axis."""
    if axis == "sequence":
        return _Sequence().eval().to(device), torch.randn(2, size, 64, device=device)
    at = {**START, axis: size} if axis in START else {**START, "batch": 1}
    images = torch.randn(at["batch"], 3, at["side"], at["side"], device=device)
    return convolutional(at["depth"], at["width"]).to(device), images


def calls(axis: str, size: int, rule: str, device: torch.device) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Saliency's call and ours; on the axis of targets, saliency once for each."""
    model, given = subject(axis, size, device)
    lrp, method, leaf = UnifiedLRP(model, rule), Saliency(model), given.clone().requires_grad_()
    if axis == "targets":
        targets = list(range(size))
        return (lambda: [method.attribute(leaf, target=t) for t in targets],
                lambda: lrp.attribute_targets(given, targets))  # fmt: skip
    return (lambda: method.attribute(leaf, target=3)), (lambda: lrp.attribute(given, target=3))


def exponent(sizes: tuple[int, ...], seconds: list[float]) -> float:
    """The slope of log time over log size, by least squares."""
    x, y = [math.log(size) for size in sizes], [math.log(time) for time in seconds]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y)) / sum((a - mean_x) ** 2 for a in x)


def main() -> None:
    """Measures, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--rules", nargs="+", default=["epsilon", "zplus"])
    parser.add_argument("--axes", nargs="+", default=list(AXES), choices=list(AXES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="three sizes of each axis, five rounds")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device, rows = choose_device(options.device), []
    for axis in options.axes:
        sizes = AXES[axis][:3] if options.quick else AXES[axis]
        for rule in options.rules:
            timed = [paired(base, {rule: mine}, device, 5 if options.quick else 21)
                     for base, mine in (calls(axis, size, rule, device) for size in sizes)]  # fmt: skip
            rows.append({
                "axis": axis, "sizes": list(sizes), "rule": rule,
                "milliseconds": [round(pair[1].seconds * 1e3, 3) for pair in timed],
                "ratios": [round(pair[1].ratio, 3) for pair in timed],
                "exponent": exponent(sizes, [pair[1].seconds for pair in timed]),
                "saliency_exponent": exponent(sizes, [pair[0].seconds for pair in timed]),
            })  # fmt: skip
            print(table(rows, ["axis", "sizes", "rule", "milliseconds", "ratios", "exponent", "saliency_exponent"]))
    write_json(RESULTS / f"scaling_{device.type}.json", {"machine": describe_machine(device), "rows": rows})


if __name__ == "__main__":
    main()
