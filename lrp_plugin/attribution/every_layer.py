"""Relevance at the input of every layer, from one backward pass of the whole batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lrp_plugin.ledger import Recorder, Row


class LayerRecorder(Recorder):
    """Keeps relevance itself where a ledger keeps its sums; given to `Session.using`, and closed after it.

    Args:
        examples: N.
        ports: The pass carries ports: what reaches an input and what reaches its port belong together.
    """

    def __init__(self, examples: int, ports: bool) -> None:
        super().__init__(examples)
        self.ports = ports
        self._received: defaultdict[Row, list[Tensor | None]] = defaultdict(list)

    def input_sink(self, row: Row) -> Callable[[Tensor, Tensor], None]:
        """Keeps the relevance that the row's operation sends to one input, in the inputs' order."""
        received, place = self._received[row], len(self._received[row])
        received.append(None)

        def sink(tensor: Tensor, multiplier: Tensor) -> None:
            received[place] = tensor.detach() * multiplier.detach()

        return sink

    def output_sink(self, row: Row, output: int, port: bool = False) -> Callable[[Tensor, Tensor], None]:
        """Nothing is kept of outputs."""
        return lambda tensor, multiplier: None

    def by_layer(self, model: nn.Module) -> dict[str, Tensor | tuple[Tensor, ...]]:
        """Layer name to the relevance at its input, a tuple where it has several, in the order of execution.

        Layers are modules without modules inside; one that runs again is ``"name#2"``.
        """
        leaves = {name for name, module in model.named_modules() if not list(module.children())}
        found: dict[str, Tensor | tuple[Tensor, ...]] = {}
        times: defaultdict[str, int] = defaultdict(int)
        for row in self.rows:
            received = [tensor for tensor in self._received[row] if tensor is not None]
            if row.path not in leaves or not received or row.operation == "port":
                continue
            times[row.path] += 1
            name = row.path if times[row.path] == 1 else f"{row.path}#{times[row.path]}"
            if self.ports and len({tensor.shape for tensor in received}) == 1:
                received = [torch.stack(received).sum(0)]
            found[name] = received[0] if len(received) == 1 else tuple(received)
        return found
