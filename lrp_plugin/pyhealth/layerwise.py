"""The spelling of PyHealth's pull request 900: a batch by keyword, the target as ``target_class_idx``."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

from lrp_plugin.pyhealth.lrp import UnifiedLRP
from lrp_plugin.pyhealth.outputs import takes_keyword
from lrp_plugin.pyhealth.visualizer import visualize_attribution


class LayerwiseRelevancePropagation(UnifiedLRP):
    """`lrp_plugin.pyhealth.UnifiedLRP` for models of PyHealth, which take a batch by keyword.

    Args:
        model: Its ``feature_keys`` (or ``image_key``) say which entries of a batch are inputs; without them the
            parameters that its forward names, else every tensor that is no label (``label_keys``, ``label_key``).
        rule, epsilon, alpha, beta: As there, alpha and beta being 1 and 0 unless given.
        use_embeddings: Explain integer inputs (codes, tokens) through their embeddings, one relevance each. False
            refuses them.
        **options: Further options of `lrp_plugin.pyhealth.UnifiedLRP`; ``validate_conservation`` is False unless given.
    """

    def __init__(
        self, model: nn.Module, rule: str = "epsilon", epsilon: float = 0.01, alpha: float = 1.0, beta: float = 0.0,
        use_embeddings: bool = True, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(model, rule, epsilon, alpha, beta, **{"validate_conservation": False, **options})
        self.use_embeddings = use_embeddings

    def attribute(self, target_class_idx: Any = None, **batch: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """Relevance of every input of a batch, in the units of the explained logit.

        Args:
            target_class_idx: As ``target_class`` of `UnifiedLRP.attribute`.
            **batch: Inputs, each ``(N, ...)``; labels and whatever else the model takes get no relevance.

        Returns:
            Input name -> relevance of that input's shape.

        Raises:
            ValueError: The batch holds no input, or an integer one with ``use_embeddings=False``.
        """
        names = self._inputs({name: value for name, value in batch.items() if isinstance(value, Tensor)})
        if not names:
            raise ValueError(
                f"the batch holds {', '.join(batch) or 'nothing'}: no tensor that the model takes for input"
            )
        whole = [name for name in names if not batch[name].is_floating_point()]
        if whole and not self.use_embeddings:
            raise ValueError(f"{', '.join(whole)} are integers: they are explained through their embeddings only; "
                             "give use_embeddings=True, or floating-point inputs")  # fmt: skip
        inputs = {name: batch.pop(name) for name in names}
        return super().attribute(inputs, target_class_idx, **batch)

    __call__ = attribute
    visualize = staticmethod(visualize_attribution)

    def _inputs(self, tensors: dict[str, Tensor]) -> list[str]:
        stated = getattr(self.model, "feature_keys", None) or getattr(self.model, "image_key", None)
        if stated:
            return [name for name in tensors if name in ([stated] if isinstance(stated, str) else stated)]
        labels = {*(getattr(self.model, "label_keys", None) or ()), getattr(self.model, "label_key", None)}
        forward = self.model.forward
        own = [name for name in tensors if name in inspect.signature(forward).parameters]
        return [name for name in own or tensors if name not in labels and takes_keyword(forward, name)]
