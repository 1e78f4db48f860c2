"""How each process makes the model for itself, and hashes that tell one model from another."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from lrp_plugin.errors import unknown


@dataclass(frozen=True)
class ModelSource:
    """How to make a model: small enough to be sent to any machine, where the model is made again.

    Attributes:
        maker: ``"package.module:function"``, the folder of a run of `lrp_plugin.cxr`, the name of a torchvision
            classifier, or a picklable function. A function is called with ``arguments`` and returns the module.
        weights: A file of weights (a state dict, loaded with ``weights_only``), torchvision's ``"DEFAULT"``, or None: as
            the maker gives them; a torchvision network is then random, but the same each time (seed 0).
        arguments: Given to the function by name.
    """

    maker: str | Callable[..., nn.Module]
    weights: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The maker in words."""
        if isinstance(self.maker, str):
            return self.maker
        return f"{self.maker.__module__}:{getattr(self.maker, '__qualname__', type(self.maker).__qualname__)}"

    def make(self) -> nn.Module:
        """The model in evaluation mode, on the CPU.

        Raises:
            ValueError: No such model, or the function returns none.
            ImportError: The function's module cannot be imported.
            RuntimeError: The weights do not fit.
        """
        if self.arguments and not callable(self.maker) and ":" not in self.maker:
            raise ValueError(f"{self.maker} takes no arguments ({', '.join(self.arguments)}): only a function does")
        model = self._made()
        if not isinstance(model, nn.Module):
            raise ValueError(f"{self.name} returned {type(model).__name__}, no torch.nn.Module")
        if self.weights not in (None, "DEFAULT"):
            model.load_state_dict(torch.load(str(self.weights), map_location="cpu", weights_only=True))
        return model.eval()

    def _made(self) -> Any:
        if callable(self.maker):
            return self.maker(**self.arguments)
        if run := self.run_folder:
            from lrp_plugin.cxr.checkpoints import load_model
            from lrp_plugin.cxr.runfolder import WEIGHTS_FILE

            return load_model(run / WEIGHTS_FILE)[0]
        if ":" in self.maker:
            return _function(self.maker)(**self.arguments)
        _check_named(self.maker)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return torchvision.models.get_model(self.maker, weights="DEFAULT" if self.weights == "DEFAULT" else None)

    @property
    def run_folder(self) -> Path | None:
        """The folder, if the maker is a run of `lrp_plugin.cxr`."""
        if isinstance(self.maker, str) and (Path(self.maker) / "run.json").is_file():
            return Path(self.maker)
        return None


def _function(name: str) -> Callable[..., Any]:
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise ValueError(f"{name}: the module {module} has no function {path}")
    return found


def weights_hash(model: nn.Module) -> str:
    """SHA-256 of all parameters and buffers: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if not isinstance(value, Tensor):
            digest.update(f"{name}={value!r};".encode())
            continue
        digest.update(f"{name}:{value.dtype}:{tuple(value.shape)};".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def model_hash(model: nn.Module) -> str:
    """SHA-256 of the structure: each module's place, class and settings, and the source of classes that are not torch's."""
    digest = hashlib.sha256()
    classes: set[type] = set()
    for name, module in model.named_modules():
        kind = type(module)
        digest.update(f"{name}:{kind.__module__}.{kind.__qualname__}({module.extra_repr()});".encode())
        classes.add(kind)
    for kind in sorted(classes, key=lambda one: f"{one.__module__}.{one.__qualname__}"):
        if kind.__module__.partition(".")[0] not in ("torch", "torchvision"):
            try:
                digest.update(inspect.getsource(kind).encode())
            except (OSError, TypeError):  # Made at run time: no source to be had.
                digest.update(f"{kind.__qualname__} without source".encode())
    return digest.hexdigest()


def _check_named(maker: str) -> None:
    classifiers = torchvision.models.list_models(module=torchvision.models)
    if maker not in classifiers:
        told = unknown("model", maker, classifiers)
        raise ValueError(f"{told}; or a run folder of lrp-plugin cxr train, or package.module:function")


def defaults_of(source: ModelSource) -> tuple[dict[str, Any], list[str] | None]:
    """What a model's pictures are like, as keywords of `lrp_plugin.archive.Picture`, and its classes' names if known.

    A run folder: its size, grey for the grey network, values left in [0, 1]. A torchvision name: as its weights were
    evaluated. A function: 224 pixels, three channels, values left in [0, 1].
    """
    if run := source.run_folder:
        from lrp_plugin.cxr.runfolder import RunSettings

        settings = RunSettings.load(run)
        channels = getattr(source.make(), "channels", 3)
        return {"size": (settings.size, settings.size), "channels": channels}, _classes_of(settings)
    if not isinstance(source.maker, str) or ":" in source.maker:
        return {}, None
    _check_named(source.maker)
    weights = torchvision.models.get_model_weights(source.maker).DEFAULT
    chosen = weights.transforms()
    (side,), (resized,) = chosen.crop_size, chosen.resize_size
    picture = {
        "size": (side, side), "fit": "crop", "crop": min(side / resized, 1.0), "mean": tuple(chosen.mean),
        "std": tuple(chosen.std), "interpolation": chosen.interpolation.value,
    }  # fmt: skip
    return picture, list(weights.meta["categories"])


def _classes_of(settings: Any) -> list[str] | None:
    """Of a run's data; None where its folder is gone."""
    from lrp_plugin.cxr.runfolder import open_dataset

    try:
        return list(open_dataset(settings).classes)
    except (OSError, ValueError):
        return None
