"""Kernels, bytes and FLOPs of a call, counted without a device: on ``meta`` the path is the one a GPU takes.

    python -m benchmarks.kernels --networks resnet18 densenet121 --batch 64

A GPU's call takes as long as its launches, its traffic to memory and its arithmetic allow: all three are countable. Counted
is every ATen operation that is no view, once, with what it reads and writes; an entry that is repeated by a stride of 0
counts once; a convolution's backward reads what its output mask asks for. A formula that a GPU runs as one compiled kernel
(`lrp_plugin.fast.kernels`) is one here, which reads its arguments and writes its results. Not counted: what the device's
caches save, and what a library's kernel (cuDNN) needs beside its arguments.

``--forecast`` makes of the counts the time that a published device would take: the sum over kernels of the longest of
bytes / bandwidth, FLOPs / rate and the time of a launch. It assumes what `DEVICES` states, that the host launches faster than
the device works, and that a network's own kernels and the rules' reach the same shares of the peaks.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import torch
from captum.attr import Saliency
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.harness import RESULTS
from benchmarks.subjects import NETWORKS, RULES, TARGET, VIT_RULES, explainer
from lrp_plugin.fast import kernels

_BACKWARD = torch.ops.aten.convolution_backward.default
_READ_NOTHING = ("new_", "zeros_like", "ones_like", "full_like", "zero_", "fill_", "zeros", "ones", "full")
_FREE = ("empty", "_unsafe_view", "lift_fresh", "_reshape_alias", "detach", "alias", "_to_copy.device")


class Device(NamedTuple):
    """A GPU's published figures, and the share of them that is assumed to be reached.

    Args:
        bandwidth: Bytes a second. float32, tf32, bfloat16: FLOPs a second, dense.
        launch: Seconds from one kernel's end to the next one's start. of_bandwidth, of_rate: Shares of the peaks.
    """

    bandwidth: float
    float32: float
    tf32: float
    bfloat16: float
    launch: float = 3e-6
    of_bandwidth: float = 0.8
    of_rate: float = 0.5

    def seconds(self, steps: list[tuple[int, int]], precision: str) -> float:
        """Of kernels, each with its bytes and FLOPs."""
        width, rate = self.bandwidth * self.of_bandwidth, getattr(self, precision) * self.of_rate
        return sum(max(moved / width, flops / rate, self.launch) for moved, flops in steps)


# NVIDIA's data sheets, SXM: H100 (2023), H200 (2024); tensor cores without sparsity.
DEVICES = {
    "H100": Device(3.35e12, 67e12, 494e12, 989e12),
    "H200": Device(4.8e12, 67e12, 494e12, 989e12),
}


class Counts(NamedTuple):
    """What a call asks of a device.

    Args:
        kernels: Operations that are no views. bytes: Read and written. flops: Of convolutions and matrix products.
    """

    kernels: int
    bytes: int
    flops: int


class Counter(TorchDispatchMode):
    """Counts the operations under it, which run as if nobody looked on."""

    only_counts = True

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[int, int]] = []
        self.paused = False

    @property
    def counts(self) -> Counts:
        """So far."""
        return Counts(len(self.steps), sum(moved for moved, _ in self.steps), sum(flops for _, flops in self.steps))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if _is_kernel(func) and not self.paused:
            given = list(args)
            if func is _BACKWARD:  # the input is read for the weight's gradient alone
                given = [args[0], args[2] if args[-1][0] else None, args[1] if args[-1][1] else None]
            if func.__name__.startswith(_READ_NOTHING):
                given = []
            flops = flop_registry.get(func._overloadpacket)
            work = flops(*args, **kwargs, out_val=out) if flops is not None else 0
            self.add([*_tensors(given), *_tensors(kwargs)], _tensors(out), work)
        return out

    def add(self, read: list[Tensor], written: list[Tensor], flops: int = 0) -> None:
        """One kernel."""
        moved = sum(_size(tensor) for tensor in {id(t): t for t in read}.values()) + sum(map(_size, written))
        self.steps.append((moved, flops))


def _is_kernel(func: Any) -> bool:
    name = func.__name__
    if name.startswith(_FREE):
        return False
    views = [one.alias_info is not None and not one.alias_info.is_write for one in func._schema.returns]
    return bool(views) and not all(views)


def _tensors(nest: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(nest) if isinstance(leaf, Tensor)]


def _size(tensor: Tensor) -> int:
    """Bytes, an entry repeated by a stride of 0 once."""
    entries = math.prod(size for size, stride in zip(tensor.shape, tensor.stride()) if stride) if tensor.numel() else 0
    return entries * tensor.element_size()


@contextmanager
def counting() -> Iterator[Counter]:
    """Counts what runs inside; a formula that is compiled on a GPU counts as one kernel."""
    counter, plain = Counter(), kernels.fused

    def fused(formula: Any, rows: list[Tensor]) -> Any:
        counter.paused = True
        found = plain(formula, rows)
        counter.paused = False
        counter.add(rows, _tensors(found))
        return found

    with mock.patch.object(kernels, "fused", fused), counter:
        yield counter


def counted(call: Callable[[], Any]) -> Counter:
    """A call's second run: the first may make what later ones keep."""
    call()
    with counting() as counter:
        call()
    return counter


def on_meta(name: str, batch: int) -> tuple[nn.Module, Tensor]:
    """A torchvision network and a batch of images, without entries."""
    from torchvision import models

    with torch.device("meta"):
        model = getattr(models, name)(weights=None).eval().requires_grad_(False)
        return model, torch.randn(batch, 3, NETWORKS[name][1], NETWORKS[name][1])


def relative(name: str, rules: tuple[str, ...], batch: int = 64) -> dict[str, dict[str, float]]:
    """Each rule's counts, divided by those of Captum's Saliency; ``"saliency"``: its counts themselves."""
    base, *own = _all(name, rules, batch)
    found: dict[str, dict[str, float]] = {"saliency": base.counts._asdict()}
    for rule, counter in zip(rules, own):
        pairs = zip(Counts._fields, counter.counts, base.counts)
        found[rule] = {field: value / beside for field, value, beside in pairs}
    return found


def forecast(name: str, rules: tuple[str, ...], batch: int = 64) -> dict[str, dict[str, float]]:
    """Each rule's time / saliency's on every device at every precision, as the counts let it be expected."""
    base, *own = _all(name, rules, batch)
    found: dict[str, dict[str, float]] = {rule: {} for rule in rules}
    for device, known in DEVICES.items():
        for precision, half in (("float32", 1), ("tf32", 1), ("bfloat16", 2)):
            beside = known.seconds([(moved // half, flops) for moved, flops in base.steps], precision)
            for rule, counter in zip(rules, own):
                steps = [(moved // half, flops) for moved, flops in counter.steps]
                found[rule][f"{device} {precision}"] = known.seconds(steps, precision) / beside
    return found


def _all(name: str, rules: tuple[str, ...], batch: int) -> list[Counter]:
    model, images = on_meta(name, batch)
    calls: list[Callable[[], Any]] = [lambda: Saliency(model).attribute(images.clone(), target=TARGET)]
    calls += [partial(explainer(model, rule).attribute, images, target=TARGET) for rule in rules]
    return [counted(call) for call in calls]


def forecast_table(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """As Markdown: time / saliency's."""
    columns = list(next(iter(next(iter(found.values())).values())))
    lines = [f"| network | rule | {' | '.join(columns)} |", "|---" * (2 + len(columns)) + "|"]
    for name, rules in found.items():
        for rule, ratios in rules.items():
            lines.append(f"| {name} | {rule} | " + " | ".join(f"{ratios[column]:.2f}" for column in columns) + " |")
    return "\n".join(lines)


def table(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """As Markdown: kernels / bytes / FLOPs relative to saliency's."""
    lines = ["| network | rule | kernels | bytes | FLOPs |", "|---|---|---|---|---|"]
    for name, rules in found.items():
        for rule, ratios in rules.items():
            if rule != "saliency":
                lines.append(f"| {name} | {rule} | " + " | ".join(f"{value:.2f}" for value in ratios.values()) + " |")
    return "\n".join(lines)


def main() -> None:
    """Counts, prints the table, writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--rules", nargs="*")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--forecast", action="store_true", help="times on published devices instead of counts")
    parser.add_argument("--no-write", action="store_true")
    options = parser.parse_args()
    make = forecast if options.forecast else relative
    found = {}
    for name in options.networks:
        rules = tuple(options.rules or (VIT_RULES if name.startswith("vit") else RULES))
        found[name] = make(name, rules, options.batch)
    print(forecast_table(found) if options.forecast else table(found))
    if not options.no_write:
        out = RESULTS / f"{'forecast' if options.forecast else 'kernels'}.json"
        out.write_text(json.dumps({"batch": options.batch, "found": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
