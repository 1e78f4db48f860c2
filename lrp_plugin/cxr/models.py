"""One call builds any torchvision classifier, or the small reference network, for radiographs of any size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from lrp_plugin.errors import told, unknown
from lrp_plugin.kinds import at_least, checked

from .reference import ReferenceCNN

#: Networks of this package: name -> builder of a net from grey pictures ``(N, 1, H, W)`` to logits.
OWN_MODELS: dict[str, Callable[[int], nn.Module]] = {"reference_cnn": ReferenceCNN}

# Sides below which a pooling or a strided convolution of the family runs out of pixels. Longest prefix wins.
_LEAST_SIDE = {"alexnet": 63, "convnext": 32, "densenet": 32, "inception": 75, "squeezenet": 24, "vgg": 32, "": 16}
# Attention over a fixed grid that the network does not announce (a VisionTransformer has ``image_size``).
_FIXED_SIDE = {"maxvit_t": 224}


class CXRClassifier(nn.Module):
    """A classifier of radiographs with pixels in [0, 1]: whatever the network inside needs is done inside.

    In this order: grey is repeated to RGB (or RGB averaged to grey, for a grey network), the picture is
    resized where the network cannot take its size, and ImageNet's mean and standard deviation are applied
    where the weights were trained with them. So a heatmap is about the picture as it was read; the
    channels' relevances are summed.

    Args:
        backbone: maps ``(N, channels, H, W)`` to logits ``(N, num_classes)``; channels 1 or 3.
        name: its name for :func:`build_model`.
        input_size: side every picture is resized to, or None to leave it (unless below ``least_size``).
        least_size: smallest side the backbone can take; smaller pictures are enlarged to it.
        normalization: mean and standard deviation per channel, or None.
    """

    @checked
    def __init__(
        self, backbone: nn.Module, name: str, num_classes: int, *, channels: int = 3, input_size: int | None = None,
        least_size: int = 16, normalization: Sequence[Sequence[float]] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.backbone = backbone
        self.name, self.num_classes, self.channels = name, num_classes, channels
        self.input_size, self.least_size = input_size, least_size
        self.mean: Tensor | None
        self.std: Tensor | None
        for buffer, values in zip(("mean", "std"), (None, None) if normalization is None else normalization):
            self.register_buffer(buffer, None if values is None else torch.tensor(values).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map pictures ``(N, 1 or 3, H, W)`` in [0, 1] to logits ``(N, num_classes)``.

        Raises:
            ValueError: another shape came.
        """
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise ValueError(
                f"{self.name} takes pictures of shape (N, 1, H, W) or (N, 3, H, W); got "
                f"{tuple(x.shape)}. For one picture add the batch dimension: image[None]"
            )
        if x.shape[1] != self.channels:
            x = x.repeat(1, 3, 1, 1) if self.channels == 3 else x.mean(1, keepdim=True)
        height, width = x.shape[-2:]
        target = [self.input_size or max(side, self.least_size) for side in (height, width)]
        if target != [height, width]:
            # Antialiasing matters only where pixels are dropped, and not every backend has it.
            shrinks = target[0] < height or target[1] < width
            x = F.interpolate(x, target, mode="bilinear", align_corners=False, antialias=shrinks)
        return self.backbone(self._normalized(x))

    def _normalized(self, pixels: Tensor) -> Tensor:
        return pixels if self.mean is None or self.std is None else (pixels - self.mean) / self.std

    @property
    def pixel_range(self) -> tuple[Tensor, Tensor]:
        """The least and the greatest pixel, 0 and 1, as the first layer sees them."""
        return self._normalized(torch.tensor(0.0)), self._normalized(torch.tensor(1.0))

    @property
    def recipe(self) -> dict[str, Any]:
        """What :func:`build_model` needs to make this model again; the weights and buffers are the rest."""
        return {"name": self.name, "num_classes": self.num_classes, "input_size": self.input_size}


def list_models() -> list[str]:
    """Names :func:`build_model` knows: the reference network, then every torchvision classifier."""
    return [*OWN_MODELS, *torchvision.models.list_models(module=torchvision.models)]


@checked
def build_model(
    name: str, num_classes: int = 4, weights: Any = None, *, input_size: int | None = None
) -> CXRClassifier:
    """Build a classifier with a fresh head.

    Args:
        name: one of :func:`list_models`.
        num_classes: outputs, at least 2.
        weights: None (random), or what ``torchvision.models.get_model`` takes: "DEFAULT", the name of a
            weights entry, or the entry itself. torchvision downloads them; nothing else here does.
        input_size: side every picture is resized to inside; None takes the network's own where it is
            fixed (vision transformers) and leaves pictures alone where it is not.

    Returns:
        The model, in training mode, on the CPU.

    Raises:
        ValueError: unknown name or weights, or an ``input_size`` the network cannot take.
        RuntimeError: the weights could not be downloaded.
    """
    at_least(2, num_classes=num_classes)
    if name not in list_models():
        raise ValueError(unknown("model", name, list_models()))
    own_net, normalization = name in OWN_MODELS, None
    if own_net and weights is not None:
        raise ValueError(f"{name} has no pretrained weights; got {told(weights)}. Leave weights out and train it")
    if own_net:
        backbone = OWN_MODELS[name](num_classes)
    else:
        backbone, normalization = _torchvision(name, weights)
        _replace_head(backbone, num_classes)
    least = next(side for prefix, side in sorted(_LEAST_SIDE.items(), reverse=True) if name.startswith(prefix))
    own = getattr(backbone, "image_size", _FIXED_SIDE.get(name))
    if input_size is not None and (input_size < least or own not in (None, input_size)):
        legal = f"exactly {own}" if own else f"at least {least}"
        raise ValueError(f"{name} cannot work at input_size={input_size}: it takes {legal} pixels a side")
    return CXRClassifier(
        backbone, name, num_classes, channels=1 if own_net else 3, input_size=own or input_size,
        least_size=least, normalization=normalization,
    )  # fmt: skip


def _torchvision(name: str, weights: Any) -> tuple[nn.Module, tuple[list[float], list[float]] | None]:
    """The network, and mean and standard deviation of the pixels its weights were trained with."""
    legal = torchvision.models.get_model_weights(name)
    try:
        entry: Any = legal.verify(weights)
    except (KeyError, TypeError):
        names = ", ".join(legal.__members__)
        raise ValueError(f"{name} has no weights {told(weights)}; legal are None, {names}") from None
    extra: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        # Their auxiliary heads return a second output while training; torchvision drops them after loading.
        extra = {"aux_logits": False, "init_weights": entry is None}
    try:
        network = torchvision.models.get_model(name, weights=entry, **extra)
    except (URLError, TimeoutError, ConnectionError) as error:
        raise RuntimeError(
            f"the weights {entry} of {name} could not be downloaded from {entry.url} ({error}). Put the file "
            f"into {torch.hub.get_dir()}/checkpoints yourself, or use weights=None and train from scratch"
        ) from error
    if entry is None:
        return network, None
    trained = entry.transforms()
    return network, (list(trained.mean), list(trained.std))


def _replace_head(backbone: nn.Module, num_classes: int) -> None:
    """Put a fresh layer in place of the last linear map, which makes the logits."""
    *_, (path, last) = (one for one in backbone.named_modules() if isinstance(one[1], nn.Linear | nn.Conv2d))
    if isinstance(last, nn.Linear):
        fresh: nn.Module = nn.Linear(last.in_features, num_classes, bias=last.bias is not None)
    else:  # SqueezeNet ends in a 1x1 convolution.
        fresh = nn.Conv2d(last.in_channels, num_classes, kernel_size=1)
    backbone.set_submodule(path, fresh)
