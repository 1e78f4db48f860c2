"""Concept relevance: relevance that flows through chosen channels, and which channels or heads carry most of it.

Achtibat et al. 2023, From attribution maps to human-understandable explanations through Concept Relevance Propagation,
Nature Machine Intelligence 5 (arXiv:2206.03208). On the way back the multipliers of all other channels of a layer are set to
0; a condition on several layers keeps what passes through the chosen channels of all of them. Conditions are explained
together: the examples are repeated, one forward and one backward pass serve all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lrp_plugin.algebra.nests import map_tensors, tensors_in
from lrp_plugin.attribution import UnifiedLRP
from lrp_plugin.attribution.arguments import Arguments, read_arguments
from lrp_plugin.attribution.layers import LayerUnifiedLRP, Seen, Watcher
from lrp_plugin.attribution.session import Pass
from lrp_plugin.attribution.targets import is_function
from lrp_plugin.errors import told
from lrp_plugin.kinds import checked

Condition = Mapping[str, "int | Sequence[int] | Callable[[Tensor], Tensor]"]
"""Layer's name -> the channels that relevance may pass through; or a function of the layer's output that returns a mask."""


class Strongest(NamedTuple):
    """The channels (or heads) with most relevance in magnitude: their numbers and their relevance, each ``(N, k)``."""

    channels: Tensor
    relevance: Tensor


class ConceptLRP(UnifiedLRP):
    """`UnifiedLRP` with conditions; arguments as there.

    >>> lrp = ConceptLRP(model, composite="epsilon_plus_flat")
    >>> channels, relevance = lrp.top_channels(images, "layer4", target=281)
    >>> maps = lrp.attribute_conditions(images, [{"layer4": int(c)} for c in channels[0]], target=281)  # (K, N, C, H, W)
    """

    def attribute(  # type: ignore[override]
        self, inputs: Any, target: Any = None, additional_forward_args: Any = None, *args: Any,
        condition: Condition | None = None, forward_kwargs: Mapping[str, Any] | None = None, **options: Any,
    ) -> Any:  # fmt: skip
        """As `UnifiedLRP.attribute`; with a ``condition``, of what flows through the chosen channels alone.

        Args:
            inputs, target, additional_forward_args, forward_kwargs: As there; so are further arguments.
            condition: ``{"layer4": [3, 17]}``: channels of a layer's output, by the module's name.

        Raises:
            ValueError: As there; for a layer or channel that does not exist.
            TypeError: A condition together with options other than these.
        """
        if condition is None:
            return super().attribute(
                inputs, target, additional_forward_args, *args, forward_kwargs=forward_kwargs, **options
            )
        if args or options:
            raise TypeError(f"a condition goes with no {', '.join(options) or 'further positional arguments'}")
        found = self.attribute_conditions(inputs, [condition], target, additional_forward_args, forward_kwargs)
        return map_tensors(found, lambda relevance: relevance[0])

    def attribute_conditions(
        self, inputs: Any, conditions: Sequence[Condition], target: Any = None, additional_forward_args: Any = None,
        forward_kwargs: Mapping[str, Any] | None = None, *, at_once: int | None = None,
    ) -> Any:  # fmt: skip
        """Relevance under each of K conditions, in one forward and one backward pass.

        Args:
            inputs, target, additional_forward_args, forward_kwargs: As in `UnifiedLRP.attribute`.
            conditions: K of them, each as in `attribute`; ``{}`` is no condition.
            at_once: How many conditions share a pass, for less memory; None: all.

        Returns:
            Relevance ``(K, N, ...)`` in the inputs' form. Conditions that divide a layer's channels between them add up to
            the relevance without one.

        Raises:
            ValueError: As in `attribute`; without a condition.
        """
        chosen = list(conditions)
        if not chosen:
            raise ValueError("conditions is empty: pass at least one, as [{'layer4': [3, 17]}]")
        size = len(chosen) if at_once is None else at_once
        if size < 1:
            raise ValueError(f"at_once={told(at_once)}; give a positive integer")
        held, arguments = read_arguments(inputs, additional_forward_args, forward_kwargs)
        parts = [self._together(held, arguments, chosen[k : k + size], target) for k in range(0, len(chosen), size)]
        joined = tuple(torch.cat(entries) for entries in zip(*parts))
        return arguments.format(joined, isinstance(held, tuple))

    def _together(
        self, inputs: Any, arguments: Arguments, conditions: Sequence[Condition], target: Any
    ) -> tuple[Tensor, ...]:
        """Relevance of each input, ``(K, N, ...)``."""
        count, examples = len(conditions), len(tensors_in(inputs, [])[0])

        def repeated(tensor: Tensor) -> Tensor:
            if not tensor.ndim or len(tensor) != examples:
                return tensor
            return tensor.repeat(count, *[1] * (tensor.ndim - 1))

        names = list(dict.fromkeys(name for condition in conditions for name in condition))
        watcher = Watcher([self._layer(name) for name in names], False)
        handles: list[Any] = []

        def explain(passed: Pass) -> tuple[Tensor, ...]:
            for name, seen in zip(names, watcher.seen):
                if not seen:
                    raise ValueError(f"layer {name!r} did not run, or nothing in it depends on the explained input")
                for item in seen:
                    mask = _mask(item, [condition.get(name) for condition in conditions], name, self._layer(name))
                    for tensor in (item.value, item.port):
                        if tensor is not None and tensor.requires_grad:
                            handles.append(tensor.register_hook(lambda m, mask=mask: m * mask.to(m.dtype)))
            return passed.relevance()

        try:
            relevances = self.session.using(
                explain, map_tensors(inputs, repeated), map_tensors(arguments, repeated),
                _repeated(target, count, examples), exact=True, watch=watcher,
            )  # fmt: skip
        finally:
            for handle in handles:
                handle.remove()
        return tuple(relevance.unflatten(0, (count, -1)) for relevance in relevances)

    def _layer(self, name: str) -> nn.Module:
        known = dict(self.model.named_modules()) if isinstance(self.model, nn.Module) else {}
        if name not in known:
            near = [one for one in known if one.endswith(name.split(".")[-1])][:5] or list(known)[1:6]
            raise ValueError(f"no layer {told(name)} in {type(self.model).__name__}; there are {', '.join(near)}, ...")
        return known[name]

    def top_channels(
        self, inputs: Any, layer: str, target: Any = None, k: int = 5, additional_forward_args: Any = None
    ) -> Strongest:
        """The k channels of a layer's output whose summed relevance is largest in magnitude, for each example.

        Args:
            inputs, target, additional_forward_args: As in `attribute`.
            layer: The module's name; its output is one tensor.
            k: How many; fewer where the layer has fewer.
        """
        relevance = self._of_layer(inputs, layer, target, additional_forward_args)
        dim = channel_dim(relevance, self._layer(layer))
        return _strongest(relevance.movedim(dim, 1).flatten(2).sum(2) if relevance.ndim > 2 else relevance, k)

    def top_heads(
        self, inputs: Any, layer: str, target: Any = None, k: int = 5, heads: int | None = None,
        additional_forward_args: Any = None,
    ) -> Strongest:  # fmt: skip
        """The k attention heads with most relevance, for each example.

        Args:
            inputs, target, additional_forward_args: As in `attribute`.
            layer: A module whose output holds the heads side by side in its last dimension (``encoder.layer.0.attention.self``
                of BERT), before they are mixed.
            k: How many.
            heads: How many heads it has; None: its own ``num_heads``, ``num_attention_heads`` or ``n_heads``.

        Raises:
            ValueError: For ``nn.MultiheadAttention``, whose output has mixed its heads; an unknown number of heads.
        """
        module = self._layer(layer)
        if isinstance(module, nn.MultiheadAttention):
            raise ValueError(
                f"layer {layer!r} is nn.MultiheadAttention, whose output has mixed its heads: name a module whose output "
                "holds them side by side, or write attention as one that returns them before its projection"
            )
        names = ("num_heads", "num_attention_heads", "n_heads")
        count = heads or next((int(getattr(module, name)) for name in names if hasattr(module, name)), 0)
        relevance = self._of_layer(inputs, layer, target, additional_forward_args)
        if not count or relevance.shape[-1] % count:
            raise ValueError(
                f"{count or 'no number of'} heads in {relevance.shape[-1]} entries of {layer!r}: give heads="
            )
        by_head = relevance.unflatten(-1, (count, -1)).sum(-1).reshape(len(relevance), -1, count).sum(1)
        return _strongest(by_head, k)

    def _of_layer(self, inputs: Any, layer: str, target: Any, additional: Any) -> Tensor:
        inner = LayerUnifiedLRP(
            self.model, self._layer(layer), composite=self.composite, registry=self.registry, output=self.session.output,
            strict=self.session.strict,
        )  # fmt: skip
        found = inner.attribute(inputs, target=target, additional_forward_args=additional)
        if not isinstance(found, Tensor):
            raise ValueError(f"layer {layer!r} returns {len(found)} tensors; name one that returns one")
        return found


@checked
def channel_dim(tensor: Tensor, module: nn.Module) -> int:
    """Where a layer's output has its channels: 1 of pictures and of 1-d convolutions, the last of token sequences."""
    last = [one for one in module.modules() if not list(one.children())][-1]
    sequence = tensor.ndim == 3 and not isinstance(last, (nn.Conv1d, nn.BatchNorm1d))
    return -1 if sequence or isinstance(last, nn.LayerNorm) else 1


def _mask(seen: Seen, wanted: Sequence[Any], name: str, module: nn.Module) -> Tensor:
    """1 where multipliers pass, of the layer's output's shape, the conditions one after another."""
    value = seen.tensor.detach()
    parts = []
    for part, channels in zip(value.chunk(len(wanted)), wanted):
        if channels is None:
            parts.append(torch.ones_like(part, dtype=torch.bool))
        elif callable(channels):
            parts.append(torch.as_tensor(channels(part), device=part.device).bool().expand(part.shape))
        else:
            dim = channel_dim(part, module)
            index = torch.as_tensor(channels, device=part.device).reshape(-1)
            size = part.shape[dim]
            if index.is_floating_point() or bool(((index < -size) | (index >= size)).any()):
                raise ValueError(f"channels {told(channels)} of {told(name)}: legal are 0 to {size - 1}")
            kept = torch.zeros(size, dtype=torch.bool, device=part.device)
            kept[index.long()] = True
            parts.append(kept.view(-1, *[1] * (part.ndim - 1 - dim % part.ndim)).expand(part.shape))
    return torch.cat(parts)


def _repeated(target: Any, count: int, examples: int) -> Any:
    if is_function(target):
        return target.of(torch.arange(examples).repeat(count)) if hasattr(target, "of") else target
    if isinstance(target, Tensor) and target.ndim and len(target) == examples:
        return target.repeat(count, *[1] * (target.ndim - 1))
    return target * count if isinstance(target, list) and len(target) == examples else target


def _strongest(relevance: Tensor, k: int) -> Strongest:
    channels = relevance.abs().topk(min(k, relevance.shape[1]), dim=1).indices
    return Strongest(channels, relevance.gather(1, channels))
