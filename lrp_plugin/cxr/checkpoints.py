"""Weights in files that are either the old ones or the new ones, never half of each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from lrp_plugin.errors import told
from lrp_plugin.files import write_atomically
from lrp_plugin.kinds import checked

from .models import CXRClassifier, build_model


class CheckpointError(RuntimeError, ValueError):
    """A checkpoint could not be written or read; the message names the file and what is left."""


def write_whole(path: Path, content: bytes) -> None:
    """Write a file; raises CheckpointError, which says what is left, where the disk is full or the folder closed."""
    try:
        write_atomically(path, content)
    except OSError as error:
        left = f"the previous {path.name} is intact" if path.exists() else "there was no earlier one"
        raise CheckpointError(
            f"could not save {path} ({len(content) / 2**20:.1f} MiB): {error.strerror}; {left}. "
            "Make room or choose another output folder, then resume"
        ) from error


@checked
def save_weights(path: Path, model: nn.Module, facts: dict[str, Any]) -> None:
    """Write weights as safetensors, with ``facts`` (JSON), the model's recipe and a checksum in the header.

    Raises:
        CheckpointError: the facts are no JSON, the disk is full, or the folder cannot be written.
    """
    recipe = model.recipe if isinstance(model, CXRClassifier) else None
    # Copies: safetensors refuses two names for one memory (tied weights).
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in model.state_dict().items()}
    try:
        header = {"recipe": json.dumps(recipe), "facts": json.dumps(facts)}
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"facts {told(facts)} cannot be written as JSON: {error}") from None
    write_whole(path, safetensors_bytes(tensors, metadata={**header, "sha256": _checksum(tensors, header)}))


@checked
def load_weights(path: str | Path, model: nn.Module) -> dict[str, Any]:
    """Load weights written by :func:`save_weights` into ``model``; the facts stored with them.

    Raises:
        CheckpointError: the file is missing or broken, or its weights belong to another model.
    """
    tensors, header = _open(Path(path))
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"the weights in {path} belong to another model: {shorten(str(error), 600)}") from error
    return json.loads(header.get("facts", "{}"))


@checked
def load_model(path: str | Path) -> tuple[CXRClassifier, dict[str, Any]]:
    """Rebuild a model of :func:`lrp_plugin.cxr.build_model` from ``best.safetensors`` of a training run.

    Returns:
        The model in evaluation mode, on the CPU, and the facts stored with it (``classes``, ``epoch``, ``metrics``).

    Raises:
        CheckpointError: the file is missing or broken, or its model was not made by ``build_model``.
    """
    tensors, header = _open(Path(path))
    recipe = json.loads(header.get("recipe", "null"))
    if recipe is None:
        raise CheckpointError(f"{path} has no recipe: its model was not made by build_model; use load_weights")
    model = build_model(recipe["name"], recipe["num_classes"], input_size=recipe["input_size"])
    model.mean, model.std = tensors.get("mean"), tensors.get("std")
    facts = load_weights(path, model)
    return model.eval(), facts


def _open(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except FileNotFoundError:
        raise CheckpointError(f"no weights at {told(str(path))}") from None
    except (SafetensorError, OSError) as error:
        what = "a folder" if path.is_dir() else "broken or no safetensors file"
        raise CheckpointError(f"{path} is {what}: {error}") from error
    checksum = _checksum(tensors, header)
    if header.get("sha256", checksum) != checksum:
        raise CheckpointError(
            f"{path} is damaged: its content is not what was saved (checksum). Copy or train it again"
        )
    return tensors, header


def _checksum(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    """SHA-256 of names, kinds, shapes and bytes of the tensors, and of the header's entries."""
    digest = hashlib.sha256(json.dumps([header.get("recipe"), header.get("facts")]).encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data if value.numel() else b"")
    return digest.hexdigest()
