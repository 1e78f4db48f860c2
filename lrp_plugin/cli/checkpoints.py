"""Weights from files: state dicts in the forms that trainers write them, into the user's network."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

INSIDE = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema", "net", "weights")
"""Under which of these a trainer's checkpoint keeps the state dict."""
PREFIXES = ("module.", "model.", "_orig_mod.", "net.", "network.", "backbone.", "encoder.")
"""What DataParallel, Lightning, torch.compile and others put before each name."""


LEGAL = "legal is a state dict, .pt, .pth, .ckpt or .safetensors"


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The state dict in a file: ``.safetensors``, or what ``torch.save`` wrote.

    Args:
        path: The file. Nothing in it is run: a pickle of anything but tensors and plain containers is refused.

    Raises:
        ValueError: The file is missing, no checkpoint, a pickle of a whole module, or holds no tensors.
        ImportError: A ``.safetensors`` file without the package.
    """
    if not path.is_file():
        raise ValueError(
            f"{path} is a folder; give a file of weights" if path.is_dir() else f"no such checkpoint: {path}"
        )
    stored = _safetensors(path) if path.suffix == ".safetensors" else _torch(path)
    found = stored
    for name in INSIDE:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
            break
    tensors = (
        {str(key): value for key, value in found.items() if isinstance(value, Tensor)}
        if isinstance(found, Mapping)
        else {}
    )
    if not tensors:
        kinds = (
            f"keys {', '.join(map(str, list(stored)[:6])) or 'none'}"
            if isinstance(stored, Mapping)
            else type(stored).__name__
        )
        raise ValueError(
            f"{path} holds no weights ({kinds}); legal is a state dict, alone or under {', '.join(INSIDE)}"
        )
    return tensors


def _safetensors(path: Path) -> Any:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise ImportError(f"{path.name} needs the package safetensors: pip install safetensors") from None
    try:
        return load_file(path)
    except Exception as error:
        raise ValueError(
            f"{path} is no whole safetensors file ({_line(error)}); save it again, or fetch it again"
        ) from error


def _torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle's protocols: what is wrong is said below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = (str(error).partition("GLOBAL ")[2].split() or [""])[0]
        if named:
            raise ValueError(
                f"{path} is a pickle of {named}, which would run code of its own when read; save the weights alone: "
                "torch.save(model.state_dict(), path)"
            ) from error
        raise ValueError(f"{LEGAL}; {path} is no checkpoint that torch.save wrote") from error
    except (EOFError, KeyError, AttributeError) as error:  # what they say is of pickle's inside
        raise ValueError(f"{LEGAL}; {path} is no checkpoint that torch.save wrote") from error
    except (RuntimeError, ValueError) as error:  # what they say is of the archive's inside
        raise ValueError(f"{path} is cut short or damaged; save it again, or fetch it again") from error


def load_into(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Loads a state dict, prefixes taken off until the names are the network's.

    Args:
        model: The network; every one of its weights must be in the file.
        tensors: Names to weights.
        path: For messages.

    Raises:
        ValueError: Names or shapes differ; the first of them are named, with the remedy.
    """
    wanted = model.state_dict()
    tensors = _named_alike(dict(tensors), set(wanted))
    missing = [name for name in wanted if name not in tensors and not name.endswith("num_batches_tracked")]
    extra = [name for name in tensors if name not in wanted]
    if missing or extra:
        parts = [f"{what} {len(names)}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
                 for what, names in (("lacks", missing), ("has besides", extra)) if names]  # fmt: skip
        raise ValueError(f"{path} does not fit {type(model).__name__}: it {'; '.join(parts)}; is it another --model?")
    other = {name: value for name, value in tensors.items() if value.shape != wanted[name].shape}
    if other:
        name = next(iter(other))
        raise ValueError(
            f"{path}: {name} has shape {tuple(other[name].shape)}, {type(model).__name__}'s {tuple(wanted[name].shape)}"
            f"{_remedy(other, wanted)}"
        )
    for name, value in tensors.items():
        _refuse_other_kind(path, name, value, wanted[name])
    model.load_state_dict(tensors, strict=False)


def _refuse_other_kind(path: Path, name: str, value: Tensor, wanted: Tensor) -> None:
    """What torch would round or drop in silence (whole numbers for real ones, real for complex), or cannot copy."""
    kinds = [(one.is_complex(), one.is_floating_point()) for one in (value, wanted)]
    what = "has no values (saved from the device meta)" if value.is_meta else ""
    what = what or ("is sparse" if value.layout != torch.strided else "")
    if not what and kinds[0] != kinds[1]:
        what = f"is {_dtype(value)}, where {_dtype(wanted)} is wanted"
    if what:
        raise ValueError(f"{path}: {name} {what}; save the trained network's own: torch.save(model.state_dict(), path)")


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _remedy(other: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """As many classes, where the weight and bias of the last layer alone (of two heads, theirs) are longer or shorter."""
    classes = {len(value) if value.dim() else 0 for value in other.values()}
    alike = all(value.shape[1:] == wanted[name].shape[1:] for name, value in other.items())
    if alike and len(classes) == 1 and len(other) <= 4:
        return f"; for a network of {min(classes)} classes add --num-classes {min(classes)}"
    return "; is it another --model?"


def _named_alike(tensors: dict[str, Tensor], wanted: set[str]) -> dict[str, Tensor]:
    """The same weights, without the prefixes that keep their names from being the network's."""
    while True:
        hits = len(wanted & set(tensors))
        for prefix in PREFIXES:
            shorter = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            if len(wanted & set(shorter)) > hits or (not hits and len(shorter) == len(tensors)):
                tensors = shorter  # what has not the prefix (a loss's weights) is not the network's
                break
        else:
            return tensors


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
