"""Operations that carry relevance natively: they move, select, add up or scale entries.

They are homogeneous of degree 1, so signal times gradient is conserved already; what a constant adds (padding,
a mask's value, a class token) is booked as ``constant``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lrp_plugin.algebra.call import Call
from lrp_plugin.algebra.formulas import reciprocal, relevance_of, widened
from lrp_plugin.algebra.nests import tensors_in
from lrp_plugin.algebra.primitives import hand_on, overwrite
from lrp_plugin.algebra.result import Result, held
from lrp_plugin.errors import UnsupportedOperationError
from lrp_plugin.registry import register_rule


def native_affine(call: Call) -> Any:
    """The operation's own backward; f(0), what constants add, is booked (entries of -inf, masks, left out)."""
    value = call.native()
    if call.row is not None:
        for place, constant in enumerate(_tensors(call.at_zero())):
            book_constant(call, constant, place)
    return value


def book_constant(call: Call, constant: Tensor, output: int = 0) -> None:
    """Books ``m * constant``, the share of an added constant."""
    if call.row is not None:
        finite = torch.where(torch.isfinite(constant), constant, 0)
        call.absorb("constant", lambda m: m * finite, output)


def distributed(call: Call, value: Tensor, pullback: Callable[[Tensor], Tensor], shift: Tensor) -> Result:
    """``bias="distribute"`` for an operation entry by entry: what the shift would absorb goes to the input's port."""
    x = call["input"]
    port, infinite = call.port(x), torch.isinf(x.detach())
    if call.row is not None:
        book_constant(call, torch.where(infinite, widened(value), 0))
    shift = torch.where(infinite, 0, shift)  # such an entry is a constant (a mask's), nothing is handed to it
    out = Result(*hand_on(value, pullback, shift, x, port))
    held = port.detach() != 0  # entries that are constants (a class token) cannot take it up: the shift keeps it
    call.absorb("bias", lambda m: m * shift * ~held)
    call.absorb("distributed", lambda m: m * shift * held)
    return out


def _tensors(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [item for item in value if isinstance(item, Tensor)]


@register_rule(
    "native", "view", "flatten", "permute", "transpose", "t", "T", "mT", "movedim", "unflatten", "squeeze", "unsqueeze",
    "expand", "expand_as", "contiguous", "clone", "chunk", "split", "split_with_sizes", "tensor_split", "unbind",
    "getitem", "select", "narrow", "index_select", "gather", "take", "take_along_dim", "roll", "flip", "rot90",
    "repeat", "repeat_interleave", "tile", "unfold", "diagonal", "diag_embed", "tril", "triu", "to", "float", "double",
    "type", "type_as", "cuda", "cpu", "half", "bfloat16", "broadcast_to", "atleast_1d", "atleast_2d", "atleast_3d",
    "hsplit", "vsplit", "dsplit", "fliplr", "flipud", "diag", "as_tensor", "asarray", "resolve_neg",
    "channel_shuffle", "pixel_shuffle", "pixel_unshuffle", "view_as_real", "requires_grad",
    "masked_select", "fold", "ravel", "adjoint", "mH", "H", "combinations", "meshgrid",
    "max_unpool1d", "max_unpool2d", "max_unpool3d",
    sign="keeps", port="routes",
)  # fmt: skip
def native_routing(call: Call) -> Any:
    """Entries are moved, repeated or selected: native."""
    return call.native()


def strided_port(call: Call, port_of: Callable[[Tensor], Tensor]) -> Tensor:
    """Places are counted in the input's memory, where its port is laid out for this."""
    x = call["input"]
    whole = x.new_zeros(x.untyped_storage().nbytes() // x.element_size())
    whole = overwrite(whole, port_of(x).to(x.dtype), x)
    offset = call.get("storage_offset")
    return whole.as_strided(call["size"], call["stride"], x.storage_offset() if offset is None else offset)


@register_rule("native", "as_strided", sign="keeps", port=strided_port)
def native_strided(call: Call) -> Any:
    """Entries are read from memory by their places: native."""
    return call.native()


@register_rule(
    "native", "cat", "stack", "hstack", "vstack", "dstack", "column_stack", "where", "masked_fill",
    "index_put", "index_copy", "scatter", "masked_scatter", "select_scatter", "slice_scatter",
    "index_fill", "diagonal_scatter", "pad_sequence", "block_diag", "cartesian_prod",
    sign="any", port="routes", affine=True,
)  # fmt: skip
def native_assembly(call: Call) -> Any:
    """Entries of several tensors, signals and constants, are put together: native; constants are booked."""
    return native_affine(call)


@register_rule("native", "setitem", "copy", "zero", "fill", sign="any", port="routes", affine=True)
def native_overwriting(call: Call) -> Any:
    """Entries are written over: native; what a constant was written over whole is a constant."""
    written = [t for t in tensors_in((call.args[1:], call.kwargs), []) if call.is_signal(t)]
    whole = call.operation != "setitem" or _is_whole(call.args[1])
    if whole and not written:
        return held(call.valued())
    return native_affine(call)


def _is_whole(index: Any) -> bool:
    """Whether an index means every entry."""
    return all(part is Ellipsis or part == slice(None) for part in (index if isinstance(index, tuple) else (index,))
               if not isinstance(part, Tensor)) and not tensors_in(index, [])  # fmt: skip


def added_port(call: Call, port_of: Callable[[Tensor], Tensor]) -> Tensor:
    """What is added up by index shares relevance evenly; a place that holds constants alone has none."""
    total = call.replaced(port_of)
    return total * reciprocal(total.detach(), 0.0)  # type: ignore[no-any-return]


@register_rule("native", "scatter_add", "index_add", "put", port=added_port)
def native_gathering(call: Call) -> Any:
    """Entries are added up by index, as messages at the nodes of a graph: native; constants are booked."""
    return native_affine(call)


@register_rule("native", "sparse_mm")
def native_aggregation(call: Call) -> Any:
    """Entries are added up by a constant sparse matrix, a graph's adjacency: native."""
    return native_affine(call)


@register_rule("native", "scatter_reduce", "index_reduce", "segment_reduce")
def native_reduction_by_index(call: Call) -> Any:
    """Sums, means, largest and smallest entries by index: homogeneous of degree 1, native; what constants take is booked.

    Raises:
        UnsupportedOperationError: For ``reduce="prod"``, a product of signals.
    """
    if "prod" in [item for item in (*call.args, *call.kwargs.values()) if isinstance(item, str)]:
        raise UnsupportedOperationError(
            f"operation {call.operation!r} with reduce='prod': no rule shares a product by index among its factors; "
            f"register one for it (register_rule('name', {str(call.operation)!r}))"
        )
    value = call.native()
    book_the_rest(call, value, "constant")
    return value


@register_rule("native", "pad", port="routes", affine=True)
def native_pad(call: Call) -> Any:
    """Padding: native; a non-zero padding value is booked as a constant."""
    return native_affine(call)


def spread_port(call: Call, port_of: Callable[[Tensor], Tensor]) -> Tensor:
    """The reduction of the input's port, brought back to ones: relevance is spread by the reduction's own weights."""
    total = call.replaced(lambda t: port_of(t) if call.is_signal(t) else t)
    return total * reciprocal(total.detach(), 0.0)  # type: ignore[no-any-return]


@register_rule(
    "native", "sum", "mean", "cumsum", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d",
    "adaptive_avg_pool2d", "adaptive_avg_pool3d", "interpolate",
    sign="keeps", port=spread_port,
)  # fmt: skip
def native_average(call: Call) -> Any:
    """Entries are added up with constant weights: homogeneous of degree 1, native."""
    return call.native()


@register_rule(
    "native", "nansum", "nanmean", "norm", "linalg_matrix_norm",
    "vector_norm", "trace", "lp_pool1d", "lp_pool2d", "roi_align",
    "roi_pool", "ps_roi_align", "ps_roi_pool", sign="keeps",
)  # fmt: skip
def native_reduction(call: Call) -> Any:
    """Entries are added up, or a norm is taken: homogeneous of degree 1, native.

    Regions of a detector are read at boxes that receive nothing: torchvision gives no gradient there either.
    """
    return call.native()


@register_rule("native", "grid_sample", "grid_sampler", sign="keeps")
def native_sampling(call: Call) -> Any:
    """Entries are read between their places: native; the places receive nothing, as the boxes of a detector."""
    if not call.is_signal(call["input"]):
        return held(call.native())
    return call.replaced(lambda t: t if t is call["input"] else t.detach())


@register_rule("native", "deform_sample", sign="keeps")
def native_deformed(call: Call) -> Any:
    """A deformable convolution's entries, read between their places: native; places and modulation receive nothing."""
    return native_sampling(call)


@register_rule("native", "nll_loss", "nll_loss_nd", "nll_loss2d")
def native_choice(call: Call) -> Any:
    """The negative log-probability of a class: linear in the log-probabilities, native."""
    return call.native()


@register_rule("native", "neg", "positive", "rad2deg", "deg2rad", port="keeps")
def native_sign(call: Call) -> Any:
    """A change of sign or unit: native."""
    return call.native()


def _is_real(names: Any) -> bool:
    x = next(iter(names.values()), None)
    return isinstance(x, torch.Tensor) and not x.is_complex()


@register_rule("native", "real", "conj", "resolve_conj", "conj_physical", transparent=_is_real)
def native_conjugate(call: Call) -> Any:
    """A complex number's real part or conjugate: native. Of a real tensor torch returns that tensor itself."""
    return native_affine(call)


@register_rule(
    "native", "diff", "imag", "view_as_complex", "complex", "stft", "istft",
    *(f"fft_{name}" for name in (
        "fft", "ifft", "rfft", "irfft", "fft2", "ifft2", "rfft2", "irfft2", "fftn", "ifftn", "rfftn", "irfftn", "hfft",
        "ihfft", "fftshift", "ifftshift")),
)  # fmt: skip
def native_linear(call: Call) -> Any:
    """A linear operation that is no map of weights: native; a constant part (of a complex number) is booked."""
    return native_affine(call)


@register_rule("native", "leaky_relu", "prelu", "rrelu", port="keeps")
def native_piecewise(call: Call) -> Any:
    """Piecewise linear through the origin: native."""
    return call.native()


def selected_port(call: Call, port_of: Callable[[Tensor], Tensor]) -> Any:
    """The port of the entries that were selected, by their places, or of the larger of two."""
    value = call.valued()
    if not isinstance(value, Tensor) and value[1].is_floating_point():  # aminmax
        return [_even_port(call["input"], port_of(call["input"]), one, call.get("dim")) for one in value]
    if not isinstance(value, Tensor):
        x, dim, places = call["input"], call.get("dim", -1), value[1]
        kept = places if places.dim() == x.dim() else places.unsqueeze(dim)
        return port_of(x).gather(dim, kept).view_as(places)
    other = call.get("other")
    if isinstance(other, Tensor):
        return _port_of_two(call["input"], other, value, call, port_of)
    return _even_port(call["input"], port_of(call["input"]), value, call.get("dim"), call.get("keepdim", False))


def _port_of_two(left: Tensor, right: Tensor, value: Tensor, call: Call, port_of: Callable[[Tensor], Tensor]) -> Tensor:
    """A tie is shared; with a constant the operation is a function of one entry, whose port passes unchanged."""
    if not (call.is_signal(left) and call.is_signal(right)):
        return port_of(left if call.is_signal(left) else right).expand_as(value)
    ahead = (left.detach() > right.detach()) == (torch.maximum(left, right).detach() == value)
    share = torch.where(left.detach() == right.detach(), 0.5, ahead.to(value.dtype))
    return share * port_of(left) + (1 - share) * port_of(right)


def _even_port(x: Tensor, port: Tensor, value: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    """The mean port of the entries that have the selected value."""
    dims = list(range(x.dim())) if dim is None or dim == () else [dim] if isinstance(dim, int) else list(dim)
    kept = value if keepdim or not dims or value.dim() == x.dim() else _unsqueezed(value, [d % x.dim() for d in dims])
    taken = (x.detach() == kept).to(x.dtype)
    weights = taken / taken.sum(dims, keepdim=True).clamp(min=1)
    return (port * weights).sum(dims).view_as(value)


def _unsqueezed(value: Tensor, dims: list[int]) -> Tensor:
    for d in sorted(dims):
        value = value.unsqueeze(d)
    return value


@register_rule("native", "amax", "amin", "median", "sort", "topk", "kthvalue", "cummax", "cummin", "aminmax", "mode", "msort",
               sign="keeps", port=selected_port)  # fmt: skip
def native_selection(call: Call) -> Any:
    """The selected entry takes all: native."""
    return call.native()


@register_rule("native", "quantile", "nanquantile", "nanmedian",
               "fractional_max_pool2d", "fractional_max_pool3d", "fractional_max_pool2d_with_indices",
               "fractional_max_pool3d_with_indices", sign="keeps")  # fmt: skip
def native_interpolation(call: Call) -> Any:
    """Entries are selected, or read between two of them: native."""
    return call.native()


def _inactive(names: Any) -> bool:
    return not names.get("training", names.get("train", True)) or names.get("p", 0.5) == 0


@register_rule(
    "native", "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout", "alpha_dropout",
    "feature_alpha_dropout", sign="keeps", transparent=_inactive,
)  # fmt: skip
def native_dropout(call: Call) -> Any:
    """Dropout: nothing where it is inactive; where the model insists on it, its mask is a constant factor.

    What alpha dropout puts in place of an entry, and adds to all, is booked as a constant.
    """
    value, x = call.native(), call["input"]
    if call.row is not None:
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(value.sum(), x, retain_graph=True)
        book_constant(call, value.detach() - x.detach() * slope)
    return value


@register_rule("gradient", "log", "log2", "log10", "log1p", "logsumexp", "log_softmax", "logit", "special_logit",
               "logcumsumexp")  # fmt: skip
def gradient(call: Call) -> Any:
    """The operation's own gradient, for functions without a finite value at 0; what that loses is booked as ``other``.

    ``R_in = x f'(x) m``, so ``(f(x) - x f'(x)) m`` is lost.
    """
    value = call.native()
    book_the_rest(call, value, "other")
    return value


def book_the_rest(call: Call, value: Tensor, column: str) -> None:
    """Books what the operation's own gradient leaves of the relevance, ``m f(x) - sum x f'(x) m``."""
    if call.row is None:
        return
    held = {key: widened(tensor.detach()) for key, tensor in _signals(call).items()}

    def lost(m: Tensor) -> Tensor:
        with torch.enable_grad():
            free = {key: tensor.clone().requires_grad_() for key, tensor in held.items()}
            again = call.replaced(lambda t: free.get(id(t), widened(t)))
        sent = torch.autograd.grad(again, list(free.values()), widened(m))
        received = sum(relevance_of(x, part).sum() for x, part in zip(held.values(), sent))
        return relevance_of(value.detach(), m).sum() - received  # type: ignore[no-any-return]

    call.absorb(column, lost)


def _signals(call: Call) -> dict[int, Tensor]:
    return {id(t): t for t in tensors_in((call.args, call.kwargs), []) if call.is_signal(t)}
