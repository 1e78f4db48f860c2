"""Targets: which of a model's outputs is explained, in every form that says it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lrp_plugin.algebra.looks import Looks
from lrp_plugin.errors import TargetError, told, warn
from lrp_plugin.torch_private import traced

_FORMS = (
    "pass an int, a tuple of ints for further dimensions, a boolean mask or (class, mask), or a list or 1-d tensor with "
    "one for each example"
)


class Part(NamedTuple):
    """The target of some of the examples, where a call is divided."""

    target: Any
    rows: slice
    examples: int


class Places(NamedTuple):
    """A target as indices: which entry of each example's output, or which entries are summed.

    Attributes:
        entry: Places behind the batch dimension, shape (1 or N, K), none negative.
        mask: Which of the entries there are summed, boolean, shape (1 or N, ...); None: there is one.
    """

    entry: Tensor
    mask: Tensor | None = None

    def of(self, rows: slice) -> Places:
        """Those of some of the examples."""
        entry, mask = (one if one is None or len(one) == 1 else one[rows] for one in self)
        assert entry is not None
        return Places(entry, mask)

    def of_all(self, examples: int) -> Places:
        """The same with one for each example."""
        entry, mask = (None if one is None else one.expand(examples, *one.shape[1:]).contiguous() for one in self)
        assert entry is not None
        return Places(entry, mask)

    def select(self, value: Tensor) -> Tensor:
        """The number explained of each example, differentiable; shape (N,)."""
        if len(self.entry) == 1 and self.entry.device.type == "cpu" and not traced():
            place = (slice(None), *self.entry[0].tolist())
            return self._summed(value, value[place])  # a view, where indices take a sort on a GPU
        rows = torch.arange(value.shape[0], device=value.device)
        places = (rows, *self.entry.to(value.device).unbind(1))
        return self._summed(value, value[places] if self.entry.shape[1] else value)

    def _summed(self, value: Tensor, picked: Tensor) -> Tensor:
        if self.mask is not None:
            picked = torch.where(self.mask.to(value.device), picked, 0)
        return picked.reshape(value.shape[0], -1).sum(1)


def pick_target(value: Tensor, target: Any, inputs: Sequence[Tensor], looks: Looks | None = None) -> Tensor:
    """The output that ``target`` names, of each example; shape (N,). ``looks``: the pass's; None looks at once.

    Raises:
        TargetError: Where the target is missing, of no legal form, or out of range.
    """
    if is_missing(target):
        return _only_number(value, inputs)
    if isinstance(target, Places):
        return target.select(value)
    if is_function(target):
        return _by_function(value, target)
    looks = Looks(at_once=True) if looks is None else looks
    places = read_target(target, value.shape, looks)
    _note_probabilities(value.detach(), looks)
    return places.select(value)


def is_function(target: Any) -> bool:
    """Whether the target is a function of the output."""
    return callable(target.target if isinstance(target, Part) else target)


def _by_function(value: Tensor, target: Any) -> Tensor:
    """``sum z * df/dz`` of each example, f's slope held constant: what each output has to say in f."""
    function = target
    if isinstance(target, Part):  # a contrast with a class for each example divides itself
        function = target.target.of(target.rows) if hasattr(target.target, "of") else target.target
    with torch.enable_grad():
        held = value.detach().requires_grad_()
        found = function(held)
        if not isinstance(found, Tensor) or found.shape != held.shape[:1]:
            given = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise TargetError(
                f"the target's function returned {given} for an output of shape {tuple(held.shape)}; it must return one "
                f"number for each example, shape ({held.shape[0]},)"
            )
        slope = torch.autograd.grad(found.sum(), held, allow_unused=True)[0] if found.requires_grad else None
    if slope is None:
        raise TargetError("the target's function does not depend on the output, or torch cannot differentiate it")
    # An output of -inf (a masked class) that is not asked for says nothing, where 0 times it would be NaN.
    return torch.where(slope == 0, 0, value * slope).reshape(value.shape[0], -1).sum(1)


def is_missing(target: Any) -> bool:
    """Whether no target is given."""
    return target is None or (isinstance(target, Part) and target.target is None)


def _only_number(value: Tensor, inputs: Sequence[Tensor]) -> Tensor:
    shape, examples = tuple(value.shape), inputs[0].shape[0]
    if value.dim() == 1 and value.numel() not in (1, examples) and len(inputs) == 1 and inputs[0].dim() == 3:
        raise TargetError(
            f"the input of shape {tuple(inputs[0].shape)} gives an output of shape {shape}: it seems to be one image "
            "without a batch dimension; pass image[None] and a target (or return one number per example, (N, 1))"
        )
    if value.numel() == examples and value.dim():
        return value.reshape(examples)
    if value.dim() == 0 or value.numel() == value.shape[0]:
        return value.reshape(-1)
    raise TargetError(
        f"the model returns shape {shape}: pass target= to say which output is explained "
        f"(an int, a list with one for each of {shape[0]} examples, a tuple for further dimensions, (class, mask))"
    )


def read_target(target: Any, shape: Sequence[int], looks: Looks | None = None) -> Places:
    """A target in any form, checked against the output's shape; ``looks``: the pass's; None looks at once.

    Raises:
        TargetError: For one that an output of that shape does not have.
    """
    if isinstance(target, Part):
        return read_target(target.target, (target.examples, *shape[1:]), looks).of(target.rows)
    shape = tuple(shape)
    if isinstance(target, Tensor) and looks is not None and _stays(target, shape):
        return _unread(target, shape, looks)
    if not shape:
        raise TargetError(f"target {told(target)} for an output of one number, shape (): leave target out")
    given = _plain(target)
    many = isinstance(given, list)
    rows = [_divided(one, target) for one in (given if many else [given])]
    if not rows or len(rows) not in (1, shape[0]):
        raise TargetError(f"{len(rows)} targets for {shape[0]} examples: pass one, or one for each")
    for ints, mask in rows:
        _check_place(ints, mask is not None, shape)
        if len(ints) != len(rows[0][0]) or (mask is None) != (rows[0][1] is None):
            raise TargetError("the list's targets are of several forms: give all the same number of places")
    places = [[place % size for place, size in zip(ints, shape[1:])] for ints, _ in rows]
    entry = torch.tensor(places, dtype=torch.long, device="cpu")
    masks = [mask for _, mask in rows if mask is not None]
    return Places(entry, _mask(masks, many, shape, entry.shape[1]) if masks else None)


def _stays(target: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether a target's class numbers stay on the device where they lie."""
    numbers = not (target.is_floating_point() or target.is_complex() or target.dtype == torch.bool)
    one_place = len(shape) == 2 or (len(shape) > 2 and all(size == 1 for size in shape[2:]))
    fitting = target.dim() <= 1 and target.numel() in (1, shape[0] if shape else 1)
    return target.device.type != "cpu" and numbers and one_place and fitting


def _unread(target: Tensor, shape: tuple[int, ...], looks: Looks) -> Places:
    """Class numbers that nobody waits for: they are looked at when the pass is over."""
    given = target.detach().reshape(-1, 1).long()
    looks.ask(lambda: ((given < -shape[1]) | (given >= shape[1])).any(), lambda: _refuse(target, shape))
    return Places(given % shape[1])


def _refuse(target: Tensor, shape: tuple[int, ...]) -> None:
    read_target(target.tolist(), shape)


def _plain(target: Any) -> Any:
    """NumPy's and torch's forms as Python's own; boolean ones of a dimension or more as tensors."""
    if isinstance(target, np.ndarray):
        target = torch.from_numpy(np.ascontiguousarray(target)) if target.dtype.kind in "biuf" else target.tolist()
    if isinstance(target, np.generic):
        return target.item()
    if not isinstance(target, Tensor):
        return target
    if target.dtype == torch.bool:
        return target.detach() if target.dim() else bool(target)
    if target.is_floating_point() or target.is_complex() or target.dim() > 1:
        raise TargetError(
            f"target {told(target)} is no class number for each example: {_FORMS} (one-hot rows: "
            "target.argmax(1); a mask: target.bool())"
        )
    return target.tolist()


def _divided(one: Any, target: Any) -> tuple[tuple[int, ...], Tensor | None]:
    """One target's integer places, and the mask behind them."""
    one = _plain(one)
    items = [_plain(item) for item in (one if isinstance(one, tuple) else (one,))]
    mask = items.pop() if items and isinstance(items[-1], Tensor) else None
    for item in items:
        if isinstance(item, bool):
            raise TargetError(f"target {told(target)} holds a bool, which is no class number: {_FORMS}")
        if not isinstance(item, int):
            raise TargetError(f"target {told(target)} must be an int or one of its kind: {_FORMS}")
    return tuple(items), mask


def _check_place(ints: tuple[int, ...], masked: bool, shape: tuple[int, ...]) -> None:
    told = (ints[0] if len(ints) == 1 else ints) if not masked else (*ints, "mask")
    needed = len(shape) - 1
    if len(shape) == 1 and ints:
        raise TargetError(
            f"target {told!r} for an output of shape {shape}, one number per example: leave target out (or, if these "
            "are one example's classes, pass the input with a batch dimension: x[None])"
        )
    if len(ints) > needed or (not masked and any(size != 1 for size in shape[1 + len(ints) :])):
        mask = (
            f", or ({told!r}, mask) with a boolean mask of shape {shape[2:]}" if needed > 1 and len(ints) == 1 else ""
        )
        raise TargetError(f"target {told!r} has {len(ints)} places, the output of shape {shape} needs {needed}{mask}")
    for place, size in zip(ints, shape[1:]):
        if not -size <= place < size:
            raise TargetError(
                f"target {told!r} is out of range: legal are 0 to {size - 1}, and -{size} to -1 from the end (output {shape})"
            )


def _mask(masks: list[Tensor], many: bool, shape: tuple[int, ...], places: int) -> Tensor:
    rest = shape[1 + places :]
    for mask in masks:
        if tuple(mask.shape) != rest and (many or tuple(mask.shape) not in ((shape[0], *rest), (1, *rest))):
            raise TargetError(
                f"target's mask of shape {tuple(mask.shape)} for an output of shape {shape}: legal are {rest}"
                + ("" if many else f" for all examples and {(shape[0], *rest)} for each")
            )
    found = torch.stack(masks) if many or tuple(masks[0].shape) == rest else masks[0]
    if not found.any():
        raise TargetError(f"target's mask of shape {tuple(masks[0].shape)} is False everywhere: nothing is explained")
    return found


def _note_probabilities(value: Tensor, looks: Looks) -> None:
    if value.dim() != 2 or value.shape[1] < 2 or not value.is_floating_point():
        return

    def tell() -> None:
        warn(
            "the model seems to end in a softmax: it is explained at the probability it returns; the logit before it "
            "is usually wanted (return it from the model, or explain the module without its last layer)"
        )

    # Magnitudes that add up to 1, as their own sum does: none is negative.
    looks.ask(lambda: (torch.stack([value, value.abs()]).sum(2) - 1).abs().max() < 1e-3, tell)
