"""A softmax written by hand, recognised from the calls that were made: it is the operation ``softmax``, with that one's rule.

``exp(z - c) / sum(exp(z - c))`` is: a numerator and a divisor that are linear images of one exponential. So are a graph
network's scatter softmax (sums by index) and a mask that multiplies both, and ``exp(log_softmax(z))``,
``exp(z - logsumexp(z))``. What an image was made by is remembered as a function of z; before a division is taken for a
softmax that function is evaluated, and must give what the model computed. Not recognised: a product with the reciprocal of
the sum, and sums that are written into a part of another tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from lrp_plugin.algebra.looks import Looks, same
from lrp_plugin.algebra.nests import map_tensors
from lrp_plugin.algebra.signal import Signal
from lrp_plugin.propagation.spelling import Spelling
from lrp_plugin.propagation.writes import value_of, write
from lrp_plugin.torch_private import observed

if TYPE_CHECKING:
    from lrp_plugin.propagation.mode import Propagation

MAKES = frozenset(("exp", "log_softmax", "logsumexp"))
"""Operations from which on images are remembered."""
_KEEPS = frozenset((
    "sum", "scatter_add", "index_add", "scatter_reduce", "segment_reduce", "sparse_mm", "matmul", "mm", "einsum", "add",
    "clamp", "clamp_min", "mul", "masked_fill", "where", "index_select", "getitem", "gather", "take_along_dim", "select",
    "narrow", "expand", "expand_as", "broadcast_to", "repeat", "repeat_interleave", "view", "flatten", "unflatten",
    "squeeze", "unsqueeze", "transpose", "permute", "movedim", "contiguous", "clone", "to", "float", "double", "type_as",
))  # fmt: skip
"""Operations, of one image and constants, whose value is an image again."""


class Image(NamedTuple):
    """What a tensor is of another.

    Args:
        root: The signal z, and what was known of it then: a write in place puts another in its place.
        kind: ``"exp"``: made of exp(z); ``"log"``: of log_softmax(z); ``"sum"``: of logsumexp(z).
        make: The function from z's value to the tensor's.
    """

    root: tuple[Tensor, Signal]
    kind: str
    make: Callable[[Tensor], Tensor]


def _by_hand(make: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A softmax written by hand, as a function of z alone: rules read its one argument by name."""

    def softmax(input: Tensor) -> Tensor:
        return make(input)

    return softmax


def follow(
    mode: Propagation, act: Any, func: Any, spelling: Spelling, args: Any, kwargs: Any, tensors: list[Tensor],
    found: dict[int, Signal],
) -> Any:  # fmt: skip
    """One call of a pass in which an exponential was taken: a softmax, or remembered as an image of one, or neither."""
    image, softmax = _understood(mode, spelling, args, kwargs, tensors, found)
    if softmax is not None:
        (z, known), function = softmax.root, _by_hand(softmax.make)
        if observed() or _gives(function, z, known, func, args, kwargs, mode):
            told = Spelling("softmax", function, False, False)
            value = mode.dispatch(function, told, (z,), {}, [z], {id(z): known})
            return write(mode, args[0], value) if spelling.writes else value
        image = None
    value = act(func, spelling, args, kwargs, tensors, found)
    if isinstance(value, Tensor):
        if image is not None:
            mode.remembered.images.set(value, image)
            mode.remembered.follows = True
        elif spelling.writes:
            mode.remembered.images.drop(value)
    return value


def _gives(
    function: Callable[[Tensor], Tensor], z: Tensor, known: Signal, func: Any, args: Any, kwargs: Any, mode: Propagation
) -> bool:  # fmt: skip
    """Whether the function gives what this call does."""
    with torch.no_grad():
        held = known.value if known.value is not None else z
        if known.waits:
            held = z
        given = map_tensors(args, lambda t: value_of(mode, t).detach().clone())
        made, found = function(held.detach()), func(*given, **kwargs)
        return made.shape == found.shape and mode.setup.looks.holds(same(made, found))


def _understood(
    mode: Propagation, spelling: Spelling, args: Any, kwargs: Any, tensors: list[Tensor], found: dict[int, Signal]
) -> tuple[Image | None, Image | None]:
    """What the call makes: an image, or the softmax that it completes."""
    operation, function = spelling.operation, spelling.function
    read = [t for t in tensors if id(t) in found]
    images = [mode.remembered.images.get(t) for t in read]
    if not read or spelling.clones:
        return None, None
    if operation in MAKES and len(read) == 1 and read[0] is args[0]:
        known = images[0]
        if operation == "exp" and known is not None and known.kind == "log":
            logarithm = known.make
            return None, known._replace(make=lambda z: torch.exp(logarithm(z)))
        rest, kind = args[1:], {"exp": "exp", "log_softmax": "log"}.get(str(operation), "sum")
        return Image((args[0], found[id(args[0])]), kind, lambda z: function(z, *rest, **kwargs)), None
    if operation == "div" and len(images) == 2 and len(args) == 2 and not kwargs:
        top, bottom = images
        if (
            top is not None
            and bottom is not None
            and top.kind == bottom.kind == "exp"
            and _one_root(top, bottom, mode.setup.looks)
        ):
            return None, top._replace(make=lambda z: top.make(z) / bottom.make(z))
    if operation == "sub" and len(images) == 2 and len(args) == 2 and not kwargs:
        known = images[1]
        if known is not None and known.kind == "sum" and known.root[0] is args[0] and read[0] is args[0]:
            return known._replace(kind="log", make=lambda z: z - known.make(z)), None
    if operation in _KEEPS and len(read) == 1 and images[0] is not None:
        return _image_of(images[0], read[0], function, args, kwargs), None
    return None, None


def _one_root(one: Image, other: Image, looks: Looks) -> bool:
    """Whether both were made of one tensor, or of two that hold the same: ``exp(t - c) / exp(t - c).sum()``."""
    (z, known), (twin, also) = one.root, other.root
    if z is twin:
        return known is also
    alike = not observed() and z.dtype == twin.dtype and z.shape == twin.shape
    return alike and looks.holds(same(z.detach(), twin.detach()))


def _image_of(known: Image, tensor: Tensor, function: Any, args: Any, kwargs: Any) -> Image:
    """The image under one more operation; it holds the constants, not the tensor."""
    place = object()
    kept: list[Any] = [
        map_tensors(given, lambda t: place if t is tensor else t.detach()) for given in (tuple(args), dict(kwargs))
    ]

    def make(z: Tensor) -> Tensor:
        value = known.make(z)
        positional, named = (_filled(given, place, value) for given in kept)
        return function(*positional, **named)  # type: ignore[no-any-return]

    return known._replace(make=make)


def _filled(value: Any, place: object, tensor: Tensor) -> Any:
    if value is place:
        return tensor
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        return type(value)(_filled(item, place, tensor) for item in value)
    return {key: _filled(item, place, tensor) for key, item in value.items()} if isinstance(value, dict) else value
