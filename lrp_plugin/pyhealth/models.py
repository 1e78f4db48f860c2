"""PyHealth's `TorchvisionModel`: a classifier that takes batches by keyword and returns a dictionary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own abbreviation

from lrp_plugin.cxr import build_model
from lrp_plugin.images import IGNORED
from lrp_plugin.images.splits import known
from lrp_plugin.kinds import checked


class TorchvisionModel(nn.Module):
    """Any torchvision classifier, or this package's reference network, with a head for the dataset's classes.

    Grey pictures are repeated to RGB, pictures of a size the network cannot take are resized, and pretrained networks
    get the normalization they were trained with, all inside ``model``.

    Args:
        dataset: With ``classes`` and, perhaps, ``input_schema`` and ``output_schema`` (the names of image and label).
        model_name: One of `lrp_plugin.cxr.list_models`.
        model_config: ``weights`` (None, ``"DEFAULT"``, ...) and ``input_size``, as in `lrp_plugin.cxr.build_model`.

    Attributes:
        model: The network, pictures ``x`` ``(N, 1 or 3, H, W)`` in [0, 1] to logits ``(N, K)``: what LRP explains.

    Raises:
        ValueError: An unknown name, or an illegal setting.
        RuntimeError: Weights could not be downloaded.
    """

    @checked
    def __init__(self, dataset: Any, model_name: str, model_config: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.classes = tuple(known(dataset, "classes"))
        self.image_key = next(iter(getattr(dataset, "input_schema", {"image": ""})))
        self.label_key = next(iter(getattr(dataset, "output_schema", {"disease": ""})))
        self.model = build_model(model_name, len(self.classes), **(model_config or {}))

    def forward(self, **batch: Any) -> dict[str, Tensor]:
        """Classify a batch.

        Args:
            **batch: Images ``(N, 1 or 3, H, W)`` and, if known, labels ``(N,)`` under the dataset's names (``image``,
                ``disease``); other entries are ignored. ValueError without images.

        Returns:
            ``logit`` and ``y_prob``, both ``(N, K)``; with labels also ``loss`` (mean cross entropy, nats) and
            ``y_true`` ``(N,)``.
        """
        if self.image_key not in batch:
            raise ValueError(f"the batch has {', '.join(batch) or 'nothing'}; give images as {self.image_key}=tensor")
        device = next(self.model.parameters()).device
        logit = self.model(batch[self.image_key].as_subclass(Tensor).to(device))
        result = {"logit": logit, "y_prob": logit.softmax(1)}
        if batch.get(self.label_key) is not None:
            labels = batch[self.label_key].as_subclass(Tensor).to(device)
            result |= {"loss": F.cross_entropy(logit, labels, ignore_index=IGNORED), "y_true": labels}
        return result
