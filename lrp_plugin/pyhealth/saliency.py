"""PyHealth's gradient saliency (``pyhealth.interpret.methods.BasicGradientSaliencyMaps``) over `GradientSaliency`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lrp_plugin.gradients import GradientSaliency
from lrp_plugin.propagation.quiet import evaluating
from lrp_plugin.pyhealth.outputs import class_indices, logits_of, takes_keyword
from lrp_plugin.pyhealth.visualizer import SaliencyVisualizer

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class BasicGradientSaliencyMaps:
    """The largest magnitude over the channels of the gradient of the logit with respect to the image.

    Unlike PyHealth's: the logit instead of the probability, whose gradient vanishes where the model is sure; any class;
    no labels needed; keys reach the model; gradients, modes and hooks are left alone.

    Args:
        model: Takes the images as keyword ``image_key``, or, where its forward has no such parameter, by position.
        input_batch: A batch (a dictionary with images ``(N, C, H, W)`` and perhaps labels ``(N,)``), a tensor
            of images, or a list of batches or of samples (images ``(C, H, W)``); explained at once. None:
            nothing yet.
        image_key: Name of the images in batches, of the model's parameter, and of the result.
        label_key: Name of the labels in batches.
        output: ``"logit"``, ``"probability"`` or ``"log_probability"``.

    Attributes:
        Model, Input_batch, Image_key, Label_key: As given (PyHealth's spelling).
        Batch_saliency_maps: One dictionary per batch: ``saliency`` (N, H, W), ``image`` (N, C, H, W), ``label`` (N,)
            or None.

    Raises:
        ValueError: ``input_batch`` is none of these, or holds no images.
    """

    def __init__(
        self, model: nn.Module, input_batch: Any = None, image_key: str = "image", label_key: str = "disease", *,
        output: str = "logit",
    ) -> None:  # fmt: skip
        self.Model, self.Input_batch, self.Image_key, self.Label_key = model, input_batch, image_key, label_key
        self.output = output
        self.Batch_saliency_maps: list[dict[str, Tensor | None]] = []
        for batch in _batches(input_batch, image_key):
            self.attribute(save_to_batch=True, **batch)

    def attribute(self, save_to_batch: bool = False, target_class_idx: Any = None, **data: Any) -> dict[str, Tensor]:
        """Explain a batch.

        Args:
            save_to_batch: Keep the maps in `Batch_saliency_maps`.
            target_class_idx: An int for all examples, a list or 1-d tensor with one for each, or None for each
                example's highest logit.
            **data: The images under ``image_key``, ``(N, C, H, W)``; labels under ``label_key`` are kept with the maps;
                anything else is handed to the model.

        Returns:
            ``{image_key: (N, H, W)}``, logits per unit of intensity, never negative.

        Raises:
            ValueError: No images, or a target out of range.
        """
        if not isinstance(data.get(self.Image_key), Tensor):
            raise ValueError(f"got {', '.join(data) or 'nothing'}; give the images as {self.Image_key}=tensor")
        images = data.pop(self.Image_key)
        labels = data.pop(self.Label_key, None)
        images = images.as_subclass(Tensor).to(self._device())
        forward = self._forward(data)
        with torch.no_grad(), evaluating(self.Model):
            indices = class_indices(target_class_idx, forward(images))
        method = GradientSaliency(self.Model, forward=forward, output=self.output, channels="max")
        maps = method.attribute(images, indices)
        if save_to_batch:
            self.Batch_saliency_maps.append({"saliency": maps, "image": images.detach(), "label": labels})
        return {self.Image_key: maps}

    __call__ = attribute

    def get_gradient_saliency_maps(self) -> list[dict[str, Tensor | None]]:
        """The stored maps: see `Batch_saliency_maps`."""
        return self.Batch_saliency_maps

    def visualize_saliency_map(
        self, plt: Any, *, image_index: int, title: str | None = None, id2label: Mapping[int, str] | None = None,
        alpha: float = 0.3, **options: Any,
    ) -> Figure:  # fmt: skip
        """A stored map over its image, titled with the true and the predicted class.

        Args:
            plt: ``matplotlib.pyplot``, or None for a figure outside it.
            image_index: Which, counted through all stored batches.
            title: Instead of true and predicted class.
            id2label: Class names.
            alpha: Opacity of the greatest value.
            **options: Of `SaliencyVisualizer.plot_saliency_overlay` (``show``, ``ax``, ``save_path``, ...).

        Raises:
            IndexError: No such image is stored.
        """
        stored = [
            (image, saliency, None if batch["label"] is None else int(batch["label"][place]))
            for batch in self.Batch_saliency_maps
            for place, (image, saliency) in enumerate(zip(batch["image"], batch["saliency"]))  # type: ignore[arg-type]
        ]
        if not -len(stored) <= image_index < len(stored):
            raise IndexError(f"image {image_index} of {len(stored)} stored; pass input_batch= or save_to_batch=True")
        image, saliency, label = stored[image_index]
        if title is None:
            with torch.no_grad(), evaluating(self.Model):
                predicted = int(class_indices(None, self._forward({})(image[None])))
            names = id2label or {}
            true = "" if label is None else f"true {names.get(label, label)}, "
            title = f"{true}predicted {names.get(predicted, predicted)}"
        return SaliencyVisualizer(default_alpha=alpha).plot_saliency_overlay(plt, image, saliency, title, **options)

    def _forward(self, further: Mapping[str, Any]) -> Callable[[Tensor], Tensor]:
        by_name = takes_keyword(self.Model.forward, self.Image_key)

        def logits(images: Tensor) -> Tensor:
            output = self.Model(**{self.Image_key: images}, **further) if by_name else self.Model(images, **further)
            return logits_of(output)

        return logits

    def _device(self) -> torch.device:
        parameter = next(self.Model.parameters(), None)
        return torch.device("cpu") if parameter is None else parameter.device


def _batches(given: Any, image_key: str) -> Sequence[Mapping[str, Any]]:
    """What the constructor takes, as a list of dictionaries with images ``(N, C, H, W)``."""
    if given is None:
        return []
    if isinstance(given, (Tensor, Mapping)):
        given = [given]
    if not isinstance(given, (list, tuple)) or not all(isinstance(item, (Mapping, Tensor)) for item in given):
        raise ValueError(
            f"input_batch is a {type(given).__name__}; legal are a dictionary, a tensor, or a list of them"
        )
    return [_as_batch(item, image_key) for item in given]


def _as_batch(item: Any, image_key: str) -> dict[str, Any]:
    entries = dict(item) if isinstance(item, Mapping) else {image_key: item}
    image = entries.get(image_key)
    if isinstance(image, Tensor) and image.ndim == 3:
        return {key: value[None] for key, value in entries.items() if isinstance(value, Tensor)}
    return entries
