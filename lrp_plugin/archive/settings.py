"""What decides the numbers of an archive: the model, the methods, what is explained, how pictures are read and maps kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lrp_plugin.archive.models import ModelSource
from lrp_plugin.errors import told
from lrp_plugin.kinds import checked

KINDS = ("predicted", "given", "above")
SCALES = ("output", "sigmoid", "softmax")


@dataclass(frozen=True)
class Method:
    """One way of explaining.

    Attributes:
        name: A rule, a ready composite, or a gradient method (`lrp_plugin.gradients.METHODS`); for options that make
            something else of it, any name.
        options: What `lrp_plugin.UnifiedLRP`, or the gradient method, is given. ``{}``: what the name says.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@checked
@dataclass(frozen=True)
class Targets:
    """Which outputs are explained.

    Attributes:
        kind: ``"predicted"`` (the greatest output), ``"given"`` (by the list of items), ``"above"`` (each output above
            ``threshold``; a picture with none keeps one row without a map).
        threshold: For ``"above"``.
        scale: What is compared with it: ``"output"`` as the model returns it, its ``"sigmoid"``, or the ``"softmax"``.

    Raises:
        ValueError: An unknown kind or scale.
    """

    kind: str = "predicted"
    threshold: float = 0.5
    scale: str = "sigmoid"

    def __post_init__(self) -> None:
        if self.kind not in KINDS or self.scale not in SCALES:
            raise ValueError(f"targets {told(self.kind)}, scale {told(self.scale)}; legal are {KINDS} and {SCALES}")


@checked
@dataclass(frozen=True)
class Picture:
    """How a file becomes the model's input.

    Attributes:
        size: Height and width, pixels.
        channels: 1 or 3.
        fit: ``"squash"`` (both sides resized) or ``"crop"`` (the shorter side resized, the middle cropped).
        crop: With ``"crop"``, the part of the resized shorter side that is kept: 224 / 256 for most ImageNet networks.
        interpolation: ``"bilinear"``, ``"bicubic"`` or ``"nearest"``.
        mean, std: Subtracted from and divided into values in [0, 1], per channel; empty: left as they are.
        scale: Values in [0, 1] are multiplied by it before.
        stretch: Make a file's own extremes black and white (more than 8 bits; see `lrp_plugin.images.read_image`).

    Raises:
        ValueError: A value that is none of these.
    """

    size: tuple[int, int] = (224, 224)
    channels: int = 3
    fit: str = "squash"
    crop: float = 1.0
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    scale: float = 1.0
    stretch: bool = False

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"picture size {self.size}: give height and width, pixels")
        if self.channels not in (1, 3) or self.fit not in ("squash", "crop"):
            raise ValueError(
                f"channels={told(self.channels)}, fit={told(self.fit)}; legal are 1 or 3, 'squash' or 'crop'"
            )
        if not 0 < self.crop <= 1 or not self.scale > 0 or self.interpolation not in ("bilinear", "bicubic", "nearest"):
            raise ValueError(
                f"crop={self.crop}, scale={self.scale}, interpolation={told(self.interpolation)}; legal are a part in "
                "(0, 1], a number above 0, 'bilinear', 'bicubic' or 'nearest'"
            )
        if len(self.mean) != len(self.std) or len(self.mean) not in (0, self.channels):
            raise ValueError(f"mean {self.mean} and std {self.std} need a value for each of {self.channels} channels")
        if any(value <= 0 for value in self.std):
            raise ValueError(f"std {self.std}: legal are numbers above 0")


@checked
@dataclass(frozen=True)
class Maps:
    """How a map is kept: float16 times a scale of its own (rounding: 2^-11 of a value, 2^-25 of the greatest).

    Attributes:
        channels: ``"sum"`` over the channels, shape (H, W), or ``"keep"``, shape (C, H, W).
        size: Height and width the map is pooled to, its sum kept; None for the picture's.

    Raises:
        ValueError: A value that is none of these.
    """

    channels: str = "sum"
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.channels not in ("sum", "keep"):
            raise ValueError(f"maps' channels {told(self.channels)}; legal are 'sum' and 'keep'")
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise ValueError(f"maps' size {self.size}: give height and width, pixels")


@checked
@dataclass(frozen=True)
class Settings:
    """Everything that decides the numbers; an archive keeps to one.

    Attributes:
        model: How the model is made.
        methods: At least one; each its own pass, since a rule changes the backward of the whole pass. All targets of a
            method share its forward pass, the one in which the prediction was found.
        targets, picture, maps: See there.
        ledger: Keep the ledger's totals, all columns. It costs one backward pass for each explanation beside the map's
            own; without it the output and the sum of the relevance are kept, whose difference is what was absorbed.
        batch: Pictures in one pass. A part of the settings: another one rounds otherwise.
        chunk: Items in one file; what a kill loses at most is the chunks in work.
        threads: Of torch in each actor, on the CPU; a part of the settings, since it decides the order of sums.

    Raises:
        ValueError: No method, two of one name, a number below 1, maps larger than the picture.
    """

    model: ModelSource
    methods: tuple[Method, ...] = (Method("epsilon_plus_flat"),)
    targets: Targets = Targets()
    picture: Picture = Picture()
    maps: Maps = Maps()
    ledger: bool = False
    batch: int = 32
    chunk: int = 128
    threads: int = 1

    def __post_init__(self) -> None:
        names = [method.name for method in self.methods]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"methods {names}: give one or more, each by a name of its own")
        for name in ("batch", "chunk", "threads"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"{name}={told(getattr(self, name))}: legal are integers of at least 1")
        if self.maps.size and any(kept > whole for kept, whole in zip(self.maps.size, self.picture.size)):
            raise ValueError(f"maps of {self.maps.size} pixels are larger than the picture, {self.picture.size}")
