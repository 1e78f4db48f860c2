"""PyHealth's gradient saliency (``pyhealth.interpret.methods.BasicGradientSaliencyMaps``) over `GradientSaliency`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from lrp_plugin.attribution.arguments import Arguments
from lrp_plugin.errors import told
from lrp_plugin.gradients import OUTPUTS, GradientSaliency
from lrp_plugin.kinds import checked
from lrp_plugin.propagation.quiet import evaluating
from lrp_plugin.pyhealth.outputs import device_of, logits_of, number_of, takes_keyword
from lrp_plugin.pyhealth.visualizer import SaliencyVisualizer


class BasicGradientSaliencyMaps:
    """The largest magnitude over the channels of the gradient of the logit with respect to the image.

    Unlike PyHealth's: the logit instead of the probability, whose gradient vanishes where the model is sure; any class;
    no labels needed; keys reach the model; gradients, modes and hooks are left alone.

    Args:
        model: Takes the images as keyword ``image_key``, or, where its forward has no such parameter, by position.
        input_batch: A batch (a dictionary with images ``(N, C, H, W)`` and perhaps labels ``(N,)``), a tensor of images, or
            a list of batches or of samples (images ``(C, H, W)``); explained at once. None: nothing yet.
        image_key: Name of the images in batches, of the model's parameter, and of the result.
        label_key: Name of the labels in batches.
        output: ``"logit"``, ``"probability"`` or ``"log_probability"``; ValueError for another.

    Attributes:
        Model, Input_batch, Image_key, Label_key: As given (PyHealth's spelling).
        Batch_saliency_maps: Of each batch ``saliency`` (N, H, W), ``image`` (N, C, H, W), ``label`` (N,) or None.
    """

    @checked
    def __init__(
        self, model: nn.Module, input_batch: Any = None, image_key: str = "image", label_key: str = "disease", *,
        output: str = "logit",
    ) -> None:  # fmt: skip
        if output not in OUTPUTS:
            raise ValueError(f"output {told(output)} is unknown; choose from {', '.join(OUTPUTS)}")
        self.Model, self.Input_batch, self.Image_key, self.Label_key = model, input_batch, image_key, label_key
        self.output = output
        self.Batch_saliency_maps: list[dict[str, Any]] = []
        for batch in _batches(input_batch, image_key):
            self.attribute(save_to_batch=True, **batch)

    def attribute(self, save_to_batch: bool = False, target_class_idx: Any = None, **data: Any) -> dict[str, Tensor]:
        """Explain a batch.

        Args:
            save_to_batch: Keep the maps in `Batch_saliency_maps`.
            target_class_idx: As ``target_class`` of `lrp_plugin.pyhealth.UnifiedLRP.attribute`.
            **data: The images under ``image_key``, ``(N, C, H, W)``; labels under ``label_key`` are kept with the maps;
                anything else is handed to the model. ValueError without images.

        Returns:
            ``{image_key: (N, H, W)}``, logits per unit of intensity, never negative.
        """
        if not isinstance(data.get(self.Image_key), Tensor):
            raise ValueError(f"got {', '.join(data) or 'nothing'}; give the images as {self.Image_key}=tensor")
        images, labels = data.pop(self.Image_key).as_subclass(Tensor), data.pop(self.Label_key, None)
        images = images.to(device_of(self.Model) or images.device)

        def explained(images: Tensor) -> Tensor:
            return number_of(target_class_idx, OUTPUTS[self.output](self._logits(images, **data)))

        maps = GradientSaliency(self.Model, forward=explained, channels="max").attribute(images)
        if save_to_batch:
            self.Batch_saliency_maps.append({"saliency": maps, "image": images.detach(), "label": labels})
        return {self.Image_key: maps}

    __call__ = attribute

    def get_gradient_saliency_maps(self) -> list[dict[str, Any]]:
        """The stored maps: see `Batch_saliency_maps`."""
        return self.Batch_saliency_maps

    def visualize_saliency_map(
        self, plt: Any, *, image_index: int, title: str | None = None, id2label: Mapping[int, str] | None = None,
        alpha: float = 0.3, **options: Any,
    ) -> Figure:  # fmt: skip
        """A stored map over its image, titled with the true and the predicted class, or with ``title``.

        Args:
            plt, alpha, **options: Of `SaliencyVisualizer.plot_saliency_overlay` (``show``, ``ax``, ``save_path``, ...).
            image_index: Which, counted through all stored batches; IndexError where there is none.
            id2label: Class names.
        """
        stored = [(batch, place) for batch in self.Batch_saliency_maps for place in range(len(batch["image"]))]
        if not -len(stored) <= image_index < len(stored):
            raise IndexError(f"image {image_index} of {len(stored)} stored; pass input_batch= or save_to_batch=True")
        batch, place = stored[image_index]
        image, labels, names = batch["image"][place], batch["label"], id2label or {}
        if title is None:
            with torch.no_grad(), evaluating(self.Model):
                predicted = int(self._logits(image[None]).argmax())
            title = f"predicted {names.get(predicted, predicted)}"
            if labels is not None:
                title = f"true {names.get(label := int(labels[place]), label)}, {title}"
        visualizer = SaliencyVisualizer(default_alpha=alpha)
        return visualizer.plot_saliency_overlay(plt, image, batch["saliency"][place], title, **options)

    def _logits(self, images: Tensor, **further: Any) -> Tensor:
        if takes_keyword(self.Model.forward, self.Image_key):
            return logits_of(Arguments((self.Image_key,), keywords=further).call(self.Model, (images,)))
        return logits_of(Arguments(keywords=further).call(self.Model, (images,)))


def _batches(given: Any, image_key: str) -> Iterator[dict[str, Any]]:
    """What the constructor takes, as dictionaries with images ``(N, C, H, W)``."""
    listed = given if isinstance(given, (list, tuple)) else [] if given is None else [given]
    for item in listed:
        if not isinstance(item, (Mapping, Tensor)):
            raise ValueError(
                f"input_batch is a {type(given).__name__}; legal are a dictionary, a tensor, or a list of them"
            )
        entries = dict(item) if isinstance(item, Mapping) else {image_key: item}
        if isinstance(image := entries.get(image_key), Tensor) and image.ndim == 3:  # a sample
            entries = {key: value[None] for key, value in entries.items() if isinstance(value, Tensor)}
        yield entries
