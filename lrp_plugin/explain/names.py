"""Names of classes: a model's own where its package says them, else what the user gives."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lrp_plugin.errors import told, unknown

Labels = Iterable[Any] | Mapping[Any, Any] | str | Path | None


def imagenet_names() -> list[str]:
    """The 1,000 classes of ImageNet, as torchvision's weights name them."""
    from torchvision.models import ResNet18_Weights

    return list(ResNet18_Weights.DEFAULT.meta["categories"])


def read_labels(labels: Labels) -> list[str] | None:
    """Names in the order of the model's outputs.

    Args:
        labels: A list, a dict from output to name, ``"imagenet"``, or a text file with one name a line.

    Raises:
        ValueError: The file does not exist or is empty, or the dict leaves an output out.
    """
    if labels is None:
        return None
    if isinstance(labels, Mapping):
        numbers = sorted(int(number) for number in labels)
        if numbers != list(range(len(numbers))):
            raise ValueError(f"labels name the outputs {numbers[:8]}...; give each from 0 to {len(numbers) - 1}")
        named = {int(number): str(name) for number, name in labels.items()}
        return [named[number] for number in numbers]
    if isinstance(labels, (str, Path)):
        if str(labels) == "imagenet":
            return imagenet_names()
        path = Path(labels)
        if not os.path.isfile(path):  # pathlib's raises for a name too long
            raise ValueError(
                f"no such file of labels: {told(str(labels))}; give a text file with one name a line, or 'imagenet'"
            )
        try:
            names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except UnicodeDecodeError:
            raise ValueError(
                f"{path} is no text in UTF-8; give a text file with one name a line, or 'imagenet'"
            ) from None
        if not names:
            raise ValueError(f"{path} names no class; give one name a line")
        return names
    if getattr(labels, "ndim", 1) == 0:
        raise ValueError(f"labels={told(labels)}; give a name for each output")
    return [str(label) for label in labels]


def names_of(model: Any, outputs: int) -> list[str] | None:
    """The classes' names: the model's attribute ``class_names``, or what its package knows; None where none fit."""
    packages = {kind.__module__.split(".")[0] for kind in type(model).__mro__}
    own = getattr(model, "class_names", None)
    names: list[str] | None = list(own) if isinstance(own, (list, tuple)) else None
    config: Any = getattr(model, "config", None)
    if names is not None:
        pass
    elif "transformers" in packages and getattr(config, "id2label", None):
        names = [str(config.id2label[number]) for number in sorted(config.id2label)]
    elif "torchxrayvision" in packages:
        names = [str(name) for name in getattr(model, "pathologies", None) or _pathologies()]
    elif packages & {"torchvision", "timm"} and outputs == 1000:
        names = imagenet_names()
    return names if names is not None and len(names) == outputs else None


def _pathologies() -> list[str]:
    """The 18 findings that torchxrayvision's networks are built for, also before they have weights."""
    from torchxrayvision.datasets import default_pathologies

    return list(default_pathologies)


def target_number(target: int | str | Tensor | None, names: Sequence[str] | None, outputs: int) -> int | None:
    """The output a target names.

    Args:
        target: A number, a name (case does not matter), or a number as text; None stays None.
        names: The outputs' names.
        outputs: How many outputs there are.

    Raises:
        ValueError: The number is out of range, the name unknown or that of several outputs.
    """
    if target is None:
        return None
    if isinstance(target, str):
        same = [number for number, name in enumerate(names or ()) if name == target]
        same = same or [number for number, name in enumerate(names or ()) if name.lower() == target.lower()]
        if len(same) > 1:
            raise ValueError(f"target {told(target)} names the outputs {', '.join(map(str, same))}; give the number")
        if same:
            return same[0]
        if not target.lstrip("-").isdigit():
            if names is None:
                raise ValueError(
                    f"target {told(target)} is a name and the classes have none; give a number from 0 to {outputs - 1}, "
                    "or the classes' names by labels="
                )
            raise ValueError(unknown("class", target, names))
    try:
        number = int(target)
    except (RuntimeError, TypeError, ValueError):
        raise ValueError(f"target={told(target)}; give one class, by number or by name") from None
    if not -outputs <= number < outputs:
        raise ValueError(f"target {number} is out of range: the model has outputs 0 to {outputs - 1}")
    return number % outputs
