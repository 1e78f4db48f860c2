"""lxt's efficient rules on a ViT, timed from another process: lxt patches torchvision's classes for good.

The parent asks for a call by a line; the answer, a line too, comes when the call is done. While one works the other
waits, so that the harness times the call as it does any other (a round trip through a pipe takes 0.1 ms, a call a second).
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import vision_transformer

from benchmarks.subjects import TARGET, network, pixels

_READY, _DONE = "ready", "done"


def lxt_efficient(kind: str, name: str, batch: int, trainable: bool) -> Callable[[], None]:
    """A call of lxt's efficient rules on a network and images of the benchmark.

    Args:
        kind: ``"CP-LRP"``, its own map for torchvision's ViT, or ``"AttnLRP"``, its rules in attention.
        name: The network. batch: How many images.
        trainable: The network's parameters require gradients, as a model comes.

    Raises:
        RuntimeError: Where the other process ends; its own message stands above on stderr.
    """
    numbers = [str(int(number)) for number in (batch, trainable, torch.get_num_threads())]
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.lxt_peer", kind, name, *numbers]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None and child.stdout is not None

    def expect(word: str) -> None:
        for line in child.stdout:  # type: ignore[union-attr]
            if line.strip() == word:  # lxt prints what it patches
                return
        raise RuntimeError(f"lxt's process ended with {child.wait()}")

    def call() -> None:
        child.stdin.write("explain\n")  # type: ignore[union-attr]
        child.stdin.flush()  # type: ignore[union-attr]
        expect(_DONE)

    expect(_READY)
    return call


def patch(kind: str) -> None:
    """lxt's own patches, for good: its map for ViT (``"CP-LRP"``), or its rules in attention (``"AttnLRP"``)."""
    found = importlib.util.find_spec("lxt")
    assert found is not None and found.submodule_search_locations
    # lxt 2.1 imports copies of Hugging Face's models that no longer load (transformers 5); the ViT needs none.
    stand_in: Any = types.ModuleType("lxt.efficient.models")
    stand_in.__path__ = [str(Path(found.submodule_search_locations[0]) / "efficient" / "models")]
    stand_in.get_default_map = lambda module: {}
    sys.modules["lxt.efficient.models"] = stand_in
    from lxt.efficient.core import monkey_patch
    from lxt.efficient.models import vit_torch
    from lxt.efficient.rules import divide_gradient

    chosen = dict(vit_torch.cp_LRP)
    if kind == "AttnLRP":
        del chosen[nn.MultiheadAttention]
        kernel = functional.scaled_dot_product_attention

        def halved(q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            return kernel(divide_gradient(q, 4), divide_gradient(k, 4), divide_gradient(v, 2), *args, **kwargs)

        functional.scaled_dot_product_attention = halved
    monkey_patch(vision_transformer, chosen)


def main(kind: str, name: str, batch: int, trainable: bool, threads: int) -> None:
    """Answers every line with a call, until the input ends."""
    torch.set_num_threads(threads)
    device = torch.device("cpu")
    model, images = network(name, device).requires_grad_(trainable), pixels(name, batch, device)
    patch(kind)
    print(_READY, flush=True)
    for _ in sys.stdin:
        given = images.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model(given)[:, TARGET].sum(), given)
        _ = given.detach() * gradient
        print(_DONE, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:3], int(sys.argv[3]), bool(int(sys.argv[4])), int(sys.argv[5]))
