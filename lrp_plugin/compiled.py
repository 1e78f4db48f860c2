"""The compiled path: forward, changed backward and product traced once per input shape, run by ``torch.compile``.

The rules are Python under a function mode, which no compiler follows; `make_fx` records what they do, tensor
operation by tensor operation, as one graph without autograd. Parameters and the modified weights made from them are
constants of that graph, so it is traced anew when a parameter's version changes.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from lrp_plugin.arguments import Arguments
from lrp_plugin.call import map_tensors, tensors_in
from lrp_plugin.explained import ExplainedInputs, check_finite, check_target, select_output
from lrp_plugin.graphs import simplify
from lrp_plugin.propagation import Propagation
from lrp_plugin.propagation.quiet import evaluating

if TYPE_CHECKING:
    from lrp_plugin.attribution import UnifiedLRP

_LOG = logging.getLogger(__name__)
COMPILE_MODES = (False, True, "reduce-overhead")
# What a compiled graph may differ from the eager pass at its first call, in relative L2 norm; a wrong graph differs by
# something of order 1. Sums in another order change ReLU's and max-pool's choices: on ResNet-18 in float32 the compiled
# pass differs by 0.005, the eager one in channels_last by 0.008; the same graph in float64, uncompiled, by nothing.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-2}
_LOOSE = 0.2
_KEPT = 16


class Explained(NamedTuple):
    """Relevance of each input, and the explained output of each example, shape (N,)."""

    relevances: tuple[Tensor, ...]
    output: Tensor


class _Graph(NamedTuple):
    run: Callable[..., Any]
    versions: tuple[Any, ...]
    shape: torch.Size


class CompiledPass:
    """Explains by compiled graphs, one for each form of call; eagerly, with a warning, where none can be made.

    Args:
        owner: The explainer: its model, rules and caches.
        mode: True for ``torch.compile``'s default, ``"reduce-overhead"`` for CUDA graphs.
    """

    def __init__(self, owner: UnifiedLRP, mode: bool | str) -> None:
        if mode not in COMPILE_MODES:
            raise ValueError(f"compile={mode!r}; legal are {', '.join(map(repr, COMPILE_MODES))}")
        self.owner = owner
        self.mode = mode
        self._graphs: dict[Any, _Graph | None] = {}

    def explain(
        self, inputs: tuple[Tensor, ...], target: Any, arguments: Arguments, eager: Callable[[], Explained]
    ) -> Explained:
        """Relevance of the inputs; ``eager`` gives the same without a graph."""
        places = _target_index(target, inputs[0])
        key = _form(inputs, arguments, places)
        versions = _versions(self.owner.model)
        graph = self._graphs.get(key)
        if key in self._graphs and graph is None:
            return eager()
        if graph is None or graph.versions != versions:
            return self._first(key, versions, inputs, places, arguments, eager)
        if target is not None:
            check_target(target, graph.shape)
        check_finite(inputs)
        return self._run(graph, inputs, places, arguments)

    def _first(
        self, key: Any, versions: tuple[Any, ...], inputs: tuple[Tensor, ...], places: Tensor | None,
        arguments: Arguments, eager: Callable[[], Explained],
    ) -> Explained:  # fmt: skip
        """The eager pass, which checks the arguments; then a graph, kept where it gives the same."""
        expected = eager()
        if self._graphs:
            reason = "a parameter has changed" if key in self._graphs else "a new form of call"
            _LOG.info("compile: tracing again, %s: inputs %s", reason, [tuple(t.shape) for t in inputs])
        try:
            graph = self._trace(versions, inputs, places, arguments)
            _compare(self._run(graph, inputs, places, arguments), expected)
        except Exception as error:  # whatever a tracer or a compiler raises, the explanation does not depend on it
            warnings.warn(
                f"compile={self.mode!r}: explained eagerly, this call could not be traced and compiled: "
                f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else '?'}",
                UserWarning, stacklevel=6,
            )  # fmt: skip
            self._keep(key, None)
            return expected
        self._keep(key, graph)
        return expected

    def _keep(self, key: Any, graph: _Graph | None) -> None:
        self._graphs.pop(key, None)
        self._graphs[key] = graph
        if len(self._graphs) > _KEPT:
            del self._graphs[next(iter(self._graphs))]

    def _trace(
        self, versions: tuple[Any, ...], inputs: tuple[Tensor, ...], places: Tensor | None, arguments: Arguments
    ) -> _Graph:
        shapes: list[torch.Size] = []
        count = len(inputs)

        def explained_pass(*tensors: Tensor) -> tuple[Tensor, ...]:
            rest = iter(tensors[count + (places is not None) :])
            given = map_tensors(arguments, lambda _: next(rest))
            index = None if places is None else tensors[count]
            return self._pass(tensors[:count], index, given, shapes)

        owner = self.owner
        constants = owner.weights.constants(_state(owner.model))
        with torch.inference_mode(False), torch.enable_grad(), evaluating(owner.model), constants:
            graph = make_fx(explained_pass)(*_flat(inputs, places, arguments))
            graph = simplify(graph)
        mode = "reduce-overhead" if self.mode == "reduce-overhead" else None
        return _Graph(torch.compile(graph, mode=mode, dynamic=False, fullgraph=True), versions, shapes[0])

    def _pass(
        self, inputs: tuple[Tensor, ...], index: Tensor | None, arguments: Arguments, shapes: list[torch.Size]
    ) -> tuple[Tensor, ...]:
        owner = self.owner
        explained = ExplainedInputs(inputs, arguments, ports=owner.chooser.ports)
        mode = Propagation(
            owner.model, owner.chooser, strict=owner.strict, ports=owner.chooser.ports, weights=owner.weights,
            port_stabilizer=owner.stabilizer,
        )  # fmt: skip
        explained.declare(mode)
        with mode:
            output = explained.run(owner.model, owner.output)
        value = select_output(mode, output, None, explained, select=False)
        shapes.append(value.shape)
        examples = value.shape[0]
        if index is None:
            selected = value.reshape(examples)
        else:
            place = (torch.arange(examples, device=value.device), *index.unbind(1))
            selected = value[place]
        return *explained.relevance(mode, selected), selected.detach()

    def _run(self, graph: _Graph, inputs: tuple[Tensor, ...], places: Tensor | None, arguments: Arguments) -> Explained:
        with torch.inference_mode(False), torch.no_grad():
            found = graph.run(*(t.detach() for t in _flat(inputs, places, arguments)))
        if self.mode == "reduce-overhead":  # a CUDA graph's outputs are overwritten by its next run
            found = [tensor.clone() for tensor in found]
        return Explained(tuple(found[:-1]), found[-1])


def _flat(inputs: tuple[Tensor, ...], places: Tensor | None, arguments: Arguments) -> list[Tensor]:
    return [*inputs, *(() if places is None else (places,)), *tensors_in(arguments, [])]


def _form(inputs: Sequence[Tensor], arguments: Arguments, places: Tensor | None) -> Any:
    """What a graph is made for: everything but the tensors' entries."""
    kind = inputs[0].device.type
    tensors = tuple((tuple(t.shape), t.stride(), t.dtype, t.device) for t in (*inputs, *tensors_in(arguments, [])))
    others = repr(map_tensors(arguments, lambda _: "tensor"))
    cast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    return tensors, others, None if places is None else places.shape[1], cast


def _target_index(target: Any, first: Tensor) -> Tensor | None:
    """Any form of target as an index of shape (N, places); an input of the graph, so another target needs no other."""
    if target is None:
        return None
    rows = target.tolist() if isinstance(target, Tensor) else target
    rows = rows if isinstance(rows, list) else [rows]
    rows = [list(row) if isinstance(row, (tuple, list)) else [row] for row in rows]
    rows = rows * first.shape[0] if len(rows) == 1 else rows
    return torch.tensor(rows, dtype=torch.long).to(first.device)


def _state(model: Any) -> list[Tensor]:
    owner = model if isinstance(model, nn.Module) else getattr(model, "__self__", None)
    return [*owner.parameters(), *owner.buffers()] if isinstance(owner, nn.Module) else []


def _versions(model: Any) -> tuple[Any, ...]:
    return tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for t in _state(model))


def _compare(found: Explained, expected: Explained) -> None:
    for mine, theirs in zip(found.relevances, expected.relevances):
        gap, size = float((mine - theirs).double().norm()), float(theirs.double().norm())
        if not gap <= _TOLERANCE.get(theirs.dtype, _LOOSE) * size:
            raise RuntimeError(f"the compiled graph differs from the eager pass by {gap:.3g} of {size:.3g}")
