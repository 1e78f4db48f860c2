"""The spelling of PyHealth's pull request 900: a batch by keyword, the target as ``target_class_idx``."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from lrp_plugin.pyhealth.lrp import UnifiedLRP
from lrp_plugin.pyhealth.visualizer import visualize_attribution

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class LayerwiseRelevancePropagation:
    """`lrp_plugin.pyhealth.UnifiedLRP` for models of PyHealth, which take a batch by keyword.

    Args:
        model: Its ``feature_keys`` (or ``image_key``) say which entries of a batch are inputs; without them the
            parameters that its forward names, else every tensor that is no label (``label_keys``, ``label_key``).
        rule: ``"epsilon"``, ``"alphabeta"``, or any other of `lrp_plugin.UnifiedLRP`.
        epsilon: The epsilon rule's, in units of the pre-activation.
        alpha, beta: alpha-beta's; alpha - beta = 1.
        use_embeddings: Explain integer inputs (codes, tokens) through their embeddings, one relevance each. False
            refuses them.
        **options: Further options of `lrp_plugin.pyhealth.UnifiedLRP`.

    Attributes:
        lrp: The `UnifiedLRP` that does the work.
    """

    def __init__(
        self, model: nn.Module, rule: str = "epsilon", epsilon: float = 0.01, alpha: float = 1.0, beta: float = 0.0,
        use_embeddings: bool = True, **options: Any,
    ) -> None:  # fmt: skip
        options = {"validate_conservation": False, **options}
        self.lrp = UnifiedLRP(model, rule, epsilon=epsilon, alpha=alpha, beta=beta, **options)
        self.model, self.use_embeddings = model, use_embeddings

    def attribute(self, target_class_idx: Any = None, **batch: Any) -> dict[str, Tensor]:
        """Relevance of every input of a batch, in the units of the explained logit.

        Args:
            target_class_idx: As ``target_class`` of `UnifiedLRP.attribute`.
            **batch: Inputs, each ``(N, ...)``; labels and whatever else the model takes get no relevance.

        Returns:
            Input name -> relevance of that input's shape.

        Raises:
            ValueError: The batch holds no input, or an integer one with ``use_embeddings=False``.
        """
        names = self._inputs(batch)
        if not names:
            raise ValueError(
                f"the batch holds {', '.join(batch) or 'nothing'}: no tensor that the model takes for input"
            )
        whole = [name for name in names if not batch[name].is_floating_point()]
        if whole and not self.use_embeddings:
            raise ValueError(f"{', '.join(whole)} are integers: they are explained through their embeddings only; "
                             "give use_embeddings=True, or floating-point inputs")  # fmt: skip
        rest = {name: value for name, value in batch.items() if name not in names}
        return self.lrp.attribute({name: batch[name] for name in names}, target_class_idx, **rest)

    __call__ = attribute

    def visualize(
        self, plt: Any, image: Any, relevance: Any, title: str | None = None, method: str = "overlay", **options: Any
    ) -> Figure:
        """A map of `attribute` over its image: see `visualize_attribution`."""
        return visualize_attribution(plt, image, relevance, title, method, **options)

    def _inputs(self, batch: dict[str, Any]) -> list[str]:
        tensors = [name for name, value in batch.items() if isinstance(value, Tensor)]
        stated = getattr(self.model, "feature_keys", None) or getattr(self.model, "image_key", None)
        if stated:
            keys = [stated] if isinstance(stated, str) else list(stated)
            return [name for name in tensors if name in keys]
        labels = {*(getattr(self.model, "label_keys", None) or ()), getattr(self.model, "label_key", None)}
        named = inspect.signature(self.model.forward).parameters
        open_ended = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in named.values())
        own = [name for name in tensors if name in named] or (tensors if open_ended else [])
        return [name for name in own if name not in labels]
