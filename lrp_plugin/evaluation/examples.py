"""The examples a comparison runs over, batch by batch: tensors, a data set, or a loader."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

INPUT_KEYS = ("inputs", "image", "images", "x")
TARGET_KEYS = ("target", "disease", "label", "labels", "y")
MASK_KEYS = ("mask", "evidence", "masks")


class Batch(NamedTuple):
    """Inputs ``(N, ...)``, classes ``(N,)`` or None for the predicted ones, masks ``(N, 1, H, W)`` or None."""

    inputs: Tensor
    target: Tensor | None
    mask: Tensor | None


class Examples:
    """Examples that can be gone through again and again, never all in memory unless they were given so.

    Args:
        data: ``(inputs, target)`` or ``(inputs, target, mask)`` as tensors (target may be None: what the model predicts);
            a loader of such tuples or of dicts with ``image``, ``disease`` and, where known, ``evidence``; or a data set
            with ``len`` and ``[]`` that gives one example so.
        batch_size: Examples at a time, where ``data`` is not in batches already.

    Raises:
        ValueError: There is nothing, lengths differ, masks have another size, or it can be gone through only once.
    """

    def __init__(self, data: Any, batch_size: int) -> None:
        if isinstance(data, Iterator):
            raise ValueError(
                "data can be gone through only once; give tensors, a data set, a list of batches or a loader"
            )
        self.data, self.batch_size = data, batch_size
        self.masked = next(iter(self)).mask is not None

    def __iter__(self) -> Iterator[Batch]:
        found = False
        for batch in self._batches():
            if not len(batch.inputs):
                continue
            found = True
            yield _checked(batch)
        if not found:
            raise ValueError("data holds no example")

    def _batches(self) -> Iterator[Batch]:
        data = self.data
        if isinstance(data, Tensor):
            data = (data, None)
        if isinstance(data, (tuple, Mapping)):
            whole = _read(data)
            for start in range(0, len(whole.inputs), self.batch_size):
                part = slice(start, start + self.batch_size)
                yield Batch(*(None if value is None else value[part] for value in whole))  # type: ignore[arg-type]
        elif isinstance(data, Sequence) or not hasattr(data, "__getitem__"):
            yield from (_read(batch) for batch in data)
        else:
            for start in range(0, len(data), self.batch_size):
                yield _read(_stacked([data[i] for i in range(start, min(start + self.batch_size, len(data)))]))

    def fingerprint(self) -> str:
        """A hash of every example, read once; what stored values are held against."""
        digest = hashlib.sha256()
        for batch in self:
            for value in batch:
                digest.update(b"none" if value is None else value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


def _read(batch: Any) -> Batch:
    if isinstance(batch, Mapping):
        values = [_first(batch, keys) for keys in (INPUT_KEYS, TARGET_KEYS, MASK_KEYS)]
    elif isinstance(batch, Tensor):
        values = [batch, None, None]
    else:
        values = [*batch, None, None][:3]
    if not isinstance(values[0], Tensor) or not values[0].ndim:
        raise ValueError(
            f"a batch without inputs: give (inputs, target, mask), or a dict with one of {', '.join(INPUT_KEYS)}"
        )
    inputs, mask = (None if v is None else v.as_subclass(Tensor) for v in (values[0], values[2]))
    assert inputs is not None
    target = None if values[1] is None else torch.as_tensor(values[1])
    if target is not None and target.ndim == 0:
        target = target.expand(len(inputs))
    return Batch(inputs, target, mask)


def _first(batch: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((batch[key] for key in keys if key in batch), None)


def _stacked(samples: Sequence[Any]) -> Any:
    first = samples[0]
    if isinstance(first, Mapping):
        known = [key for key in (*INPUT_KEYS, *TARGET_KEYS, *MASK_KEYS) if key in first]
        return {key: torch.stack([torch.as_tensor(sample[key]) for sample in samples]) for key in known}
    parts = [sample if isinstance(sample, (tuple, list)) else (sample,) for sample in samples]
    return tuple(torch.stack([torch.as_tensor(value) for value in column]) for column in zip(*parts))


def _checked(batch: Batch) -> Batch:
    inputs, target, mask = batch
    if target is not None and target.shape != (len(inputs),):
        raise ValueError(f"target {tuple(target.shape)} for {len(inputs)} examples; give one class for each, (N,)")
    if mask is not None:
        mask = mask[:, None] if mask.ndim == inputs.ndim - 1 else mask
        if mask.shape != (len(inputs), 1, *inputs.shape[2:]):
            raise ValueError(
                f"masks {tuple(mask.shape)} of another size than the inputs {tuple(inputs.shape)}: resize them"
            )
    return Batch(inputs, target, mask)


def model_fingerprint(model: Any) -> str:
    """A hash of a module's parameters and buffers; the type's name of anything else."""
    digest = hashlib.sha256(type(model).__name__.encode())
    for name, value in model.state_dict().items() if isinstance(model, nn.Module) else ():
        digest.update(name.encode())
        if isinstance(value, Tensor):
            held = value.detach().cpu().contiguous()
            digest.update((held.float() if held.dtype == torch.bfloat16 else held).numpy().tobytes())
    return digest.hexdigest()[:16]


Data = Iterable[Any] | Tensor
