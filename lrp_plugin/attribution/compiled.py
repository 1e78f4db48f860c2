"""The compiled path: forward, changed backward and product traced once per input shape, run by ``torch.compile``.

The rules are Python under a function mode, which no compiler follows; `make_fx` records what they do, tensor
operation by tensor operation, as one graph without autograd. Parameters and the modified weights made from them are
constants of that graph, so it is traced anew when a parameter's version changes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from lrp_plugin.algebra.formulas import cast_of
from lrp_plugin.algebra.looks import Looks
from lrp_plugin.algebra.nests import map_tensors, tensors_in
from lrp_plugin.attribution.arguments import Arguments
from lrp_plugin.attribution.inputs import check_finite
from lrp_plugin.attribution.session import Explained, Session, recording
from lrp_plugin.attribution.targets import Places, is_missing, read_target
from lrp_plugin.errors import told, warn
from lrp_plugin.fast.graphs import simplify
from lrp_plugin.propagation.paths import modules_behind
from lrp_plugin.propagation.quiet import evaluating

_LOG = logging.getLogger(__name__)
COMPILE_MODES = (False, True, "reduce-overhead")
# What a compiled graph may differ from the eager pass at its first call, in relative L2 norm; a wrong graph differs by
# something of order 1. Sums in another order change ReLU's and max-pool's choices: on ResNet-18 in float32 the compiled
# pass differs by 0.005, the eager one in channels_last by 0.008; the same graph in float64, uncompiled, by nothing.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-2}
_LOOSE = 0.2
_KEPT = 16
_PLAIN = (int, float, complex, str, bytes, type(None), torch.dtype, torch.device, slice)


class _Graph(NamedTuple):
    run: Callable[..., Any]
    versions: tuple[Any, ...]
    shape: torch.Size


class CompiledPass:
    """Explains by compiled graphs, one for each form of call; eagerly, with a warning, where none can be made.

    Args:
        session: The explainer's model, rules and caches.
        mode: True for ``torch.compile``'s default, ``"reduce-overhead"`` for CUDA graphs.
    """

    def __init__(self, session: Session, mode: bool | str) -> None:
        if not isinstance(mode, (bool, str)) or mode not in COMPILE_MODES:
            raise ValueError(f"compile={told(mode)}; legal are {', '.join(map(repr, COMPILE_MODES))}")
        self.session = session
        self.mode = mode
        self._begin()

    def _begin(self) -> None:
        self._graphs: dict[Any, _Graph | None] = {}
        self._shapes: dict[Any, torch.Size] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"session": self.session, "mode": self.mode}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def explain(
        self, inputs: tuple[Tensor, ...], target: Any, arguments: Arguments, eager: Callable[[], Explained]
    ) -> Explained:
        """Relevance of the inputs; ``eager`` gives the same without a graph."""
        form = _form(inputs, arguments)
        opaque = _opaque(arguments)
        if opaque is not None:
            self._tell(form, f"an argument is a {opaque}, whose content is no input of a graph")
            return eager()
        expected = None
        if form not in self._shapes:
            expected = eager()
            self._shapes[form] = expected.shape
        shape, looks = self._shapes[form], Looks()
        places = None if is_missing(target) else read_target(target, shape, looks).of_all(shape[0])
        key = form, None if places is None else (places.entry.shape, None if places.mask is None else places.mask.shape)
        versions = self.session.weights.stamps(_state(self.session.model))
        graph = self._graphs.get(key)
        if key in self._graphs and graph is None:
            return expected or eager()
        if graph is None or graph.versions != versions:
            return self._first(key, versions, inputs, places, arguments, expected or eager())
        check_finite(inputs, looks)
        found = self._run(graph, inputs, places, arguments)
        looks.settle()
        return found

    def _first(
        self, key: Any, versions: tuple[Any, ...], inputs: tuple[Tensor, ...], places: Places | None,
        arguments: Arguments, expected: Explained,
    ) -> Explained:  # fmt: skip
        """A graph, kept where it gives what the eager pass gave."""
        if self._graphs:
            reason = "a parameter has changed" if key in self._graphs else "a new form of call"
            _LOG.info("compile: tracing again, %s: inputs %s", reason, [tuple(t.shape) for t in inputs])
        try:
            graph = self._trace(versions, inputs, places, arguments)
            _compare(self._run(graph, inputs, places, arguments), expected)
        except Exception as error:  # whatever a tracer or a compiler raises, the explanation does not depend on it
            said = str(error).strip().splitlines()
            self._tell(
                None, f"this call could not be traced and compiled: {type(error).__name__}: {said[0] if said else '?'}"
            )
            self._keep(key, None)
            return expected
        self._keep(key, graph)
        return expected

    def _tell(self, once: Any, reason: str) -> None:
        """Warns that a call is explained eagerly; where ``once`` is given, once for each."""
        key = ("compile", str(hash(once)))
        if once is None or key not in self.session.warned:
            self.session.warned.add(key)
            warn(f"compile={self.mode!r}: explained eagerly, {reason}")

    def _keep(self, key: Any, graph: _Graph | None) -> None:
        self._graphs.pop(key, None)
        self._graphs[key] = graph
        if len(self._graphs) > _KEPT:
            del self._graphs[next(iter(self._graphs))]

    def _trace(
        self, versions: tuple[Any, ...], inputs: tuple[Tensor, ...], places: Places | None, arguments: Arguments
    ) -> _Graph:
        session = self.session
        maps = session.count(inputs, arguments)
        shapes: list[torch.Size] = []

        def explained_pass(*tensors: Tensor) -> tuple[Tensor, ...]:
            rest = iter(tensors)
            given, target, further = map_tensors((inputs, places, arguments), lambda _: next(rest))
            found = session.forward(given, further, target, maps=maps).explain(False)
            shapes.append(found.shape)
            return *found.relevances, found.output

        constants = session.weights.constants(_state(session.model))
        with recording(), evaluating(session.model), constants:
            graph = make_fx(explained_pass)(*tensors_in((inputs, places, arguments), []))
            graph = simplify(graph)
        mode = "reduce-overhead" if self.mode == "reduce-overhead" else None
        return _Graph(torch.compile(graph, mode=mode, dynamic=False, fullgraph=True), versions, shapes[0])

    def _run(self, graph: _Graph, inputs: tuple[Tensor, ...], places: Places | None, arguments: Arguments) -> Explained:
        with torch.inference_mode(False), torch.no_grad():
            found = graph.run(*(t.detach() for t in tensors_in((inputs, places, arguments), [])))
        if self.mode == "reduce-overhead":  # a CUDA graph's outputs are overwritten by its next run
            found = [tensor.clone() for tensor in found]
        return Explained(tuple(found[:-1]), found[-1], graph.shape)


def _form(inputs: Sequence[Tensor], arguments: Arguments) -> Any:
    """What a graph is made for: everything but the tensors' entries."""
    kind = inputs[0].device.type
    tensors = tuple((tuple(t.shape), t.stride(), t.dtype, t.device) for t in (*inputs, *tensors_in(arguments, [])))
    others = repr(map_tensors(arguments, lambda _: "tensor"))
    return tensors, others, cast_of(kind)


def _opaque(value: Any) -> str | None:
    """The type of what is neither a tensor nor plain in a nest of containers, or None."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        return next((found for item in value if (found := _opaque(item)) is not None), None)
    return None if isinstance(value, (Tensor, *_PLAIN)) or callable(value) else type(value).__name__


def _state(model: Any) -> list[Tensor]:
    return [tensor for root in modules_behind(model) for tensor in (*root.parameters(), *root.buffers())]


def _compare(found: Explained, expected: Explained) -> None:
    for mine, theirs in zip(found.relevances, expected.relevances):
        gap, size = float((mine - theirs).double().norm()), float(theirs.double().norm())
        if not gap <= _TOLERANCE.get(theirs.dtype, _LOOSE) * size:
            raise RuntimeError(f"the compiled graph differs from the eager pass by {gap:.3g} of {size:.3g}")
