"""Operations that torch carries out whole, written out in others that have rules."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm


def tensordot(a: Tensor, b: Tensor, dims: Any = 2, other_dims: Any = None) -> Tensor:
    """One matrix product; ``dims`` in all of torch's forms."""
    if other_dims is not None:  # torch's inner form
        dims = dims, other_dims
    elif isinstance(dims, Tensor):
        dims = dims.tolist()
    if isinstance(dims, int):
        dims = range(a.dim() - dims, a.dim()), range(dims)
    left, right = (
        [d % t.dim() for d in ((given,) if isinstance(given, int) else given)] for given, t in zip(dims, (a, b))
    )
    rows = [d for d in range(a.dim()) if d not in left]
    columns = [d for d in range(b.dim()) if d not in right]
    inner = math.prod(a.shape[d] for d in left)
    first = a.permute(*rows, *left).reshape(math.prod(a.shape[d] for d in rows), inner)
    second = b.permute(*right, *columns).reshape(inner, math.prod(b.shape[d] for d in columns))
    return (first @ second).reshape([a.shape[d] for d in rows] + [b.shape[d] for d in columns])


def inner(input: Tensor, other: Tensor) -> Tensor:
    """Over the last dimension of both."""
    return input * other if 0 in (input.dim(), other.dim()) else tensordot(input, other, ([-1], [-1]))


def dot(input: Tensor, tensor: Tensor) -> Tensor:
    """Of two vectors."""
    return input @ tensor


def vdot(input: Tensor, tensor: Tensor) -> Tensor:
    """Of two vectors, the first conjugated."""
    return dot(input.conj() if input.is_complex() else input, tensor)


def multi_dot(tensors: Sequence[Tensor]) -> Tensor:
    """From left to right."""
    return functools.reduce(torch.matmul, tensors)


def chain_matmul(*matrices: Tensor) -> Tensor:
    """From left to right."""
    return multi_dot(matrices)


def _added(input: Tensor, product: Tensor, beta: float, alpha: float) -> Tensor:
    scaled = product if alpha == 1 else alpha * product
    return scaled if beta == 0 else (input if beta == 1 else beta * input) + scaled


def addmv(input: Tensor, mat: Tensor, vec: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """``beta input + alpha mat vec``."""
    return _added(input, mat @ vec, beta, alpha)


def addr(input: Tensor, vec1: Tensor, vec2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """``beta input + alpha vec1 vec2^T``."""
    return _added(input, vec1[:, None] * vec2, beta, alpha)


def addbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """``beta input + alpha sum_b batch1_b batch2_b``."""
    return _added(input, (batch1 @ batch2).sum(0), beta, alpha)


def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """``beta input + alpha mat1 mat2``."""
    return _added(input, mat1 @ mat2, beta, alpha)


def baddbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """``beta input + alpha batch1 batch2``."""
    return _added(input, batch1 @ batch2, beta, alpha)


def lerp(input: Tensor, end: Tensor, weight: Tensor | float) -> Tensor:
    """``input + weight (end - input)``."""
    return input + weight * (end - input)


def addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    """``input + value tensor1 tensor2``."""
    product = tensor1 * tensor2
    return input + (product if value == 1 else value * product)


def addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    """``input + value tensor1 / tensor2``."""
    quotient = tensor1 / tensor2
    return input + (quotient if value == 1 else value * quotient)


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """A product of two vectors divided by their norms, which are divisors and carry nothing."""
    first, second = (x / vector_norm(x, dim=dim, keepdim=True).clamp_min(eps) for x in (x1, x2))
    return (first * second).sum(dim)


def pairwise_distance(x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
    """The norm of a difference."""
    return vector_norm(x1 - x2 + eps, p, dim=-1, keepdim=keepdim)


def cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: Any = None) -> Tensor:
    """The norms of all differences, (..., P, R, M) of them at a time."""
    return vector_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, dim=-1)


def dist(input: Tensor, other: Tensor, p: float = 2.0) -> Tensor:
    """The norm of a difference."""
    return vector_norm(input - other, p)


def hypot(input: Tensor, other: Tensor) -> Tensor:
    """The norm of two entries."""
    return vector_norm(torch.stack(torch.broadcast_tensors(input, other)), 2, dim=0)


def logaddexp(input: Tensor, other: Tensor) -> Tensor:
    """logsumexp of two entries."""
    return torch.logsumexp(torch.stack(torch.broadcast_tensors(input, other)), 0)


def _with_mean(spread: Callable[..., Tensor], input: Tensor, args: Any, kwargs: Any) -> tuple[Tensor, Tensor]:
    dim = kwargs.get("dim", args[0] if args and not isinstance(args[0], bool) else None)
    keepdim = kwargs.get("keepdim", args[2] if len(args) > 2 else False)
    dims = dim if dim is not None else tuple(range(input.dim()))
    return spread(input, *args, **kwargs), input.mean(dims, keepdim) if input.dim() else input


def var_mean(input: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """The variance, and the mean, which is linear."""
    return _with_mean(torch.var, input, args, kwargs)


def std_mean(input: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """The deviation, and the mean, which is linear."""
    return _with_mean(torch.std, input, args, kwargs)


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """A product of two signals, one through a sigmoid."""
    signal, gate = input.chunk(2, dim)
    return signal * torch.sigmoid(gate)


def broadcast_tensors(*tensors: Tensor) -> list[Tensor]:
    """Each expanded to the shape of all."""
    shape = torch.broadcast_shapes(*(tensor.shape for tensor in tensors))
    return [tensor.expand(shape) for tensor in tensors]


# Maps of a signal with a constant addend; a signal that is added is another's relevance.
WITH_SIGNAL_ADDED: dict[Any, Callable[..., Any]] = {"addmm": addmm, "baddbmm": baddbmm}

# By the operation's name in `spelling`.
WRITTEN_OUT: dict[str, Callable[..., Any]] = {
    "tensordot": tensordot, "inner": inner, "dot": dot, "vdot": vdot, "linalg_multi_dot": multi_dot,
    "chain_matmul": chain_matmul, "addmv": addmv, "addr": addr, "addbmm": addbmm, "cosine_similarity": cosine_similarity,
    "broadcast_tensors": broadcast_tensors, "lerp": lerp, "addcmul": addcmul, "addcdiv": addcdiv,
    "pairwise_distance": pairwise_distance, "cdist": cdist, "dist": dist, "hypot": hypot, "logaddexp": logaddexp,
    "var_mean": var_mean, "std_mean": std_mean, "glu": glu,
}  # fmt: skip
