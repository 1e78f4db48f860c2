"""One process or several: the little that differs, under ``torchrun``."""

from __future__ import annotations

import os
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

T = TypeVar("T")


def join_processes() -> tuple[int, int]:
    """Join the process group that ``torchrun`` announces in the environment; alone, do nothing.

    Call it before making loaders, so that each process reads its share. Backend: NCCL where each process
    has a CUDA device, else gloo.

    Returns:
        This process's rank and the number of processes, (0, 1) alone.
    """
    if not distributed.is_available():
        return 0, 1
    if not distributed.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        local = int(os.environ.get("LOCAL_RANK", "0"))
        has_device = torch.cuda.is_available() and local < torch.cuda.device_count()
        if has_device:
            torch.cuda.set_device(local)
        distributed.init_process_group("nccl" if has_device else "gloo")
    return rank_and_world()


def rank_and_world() -> tuple[int, int]:
    """This process's rank and the number of processes."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def own_device() -> torch.device:
    """The device this process should work on: its CUDA device, or the CPU."""
    _, world = rank_and_world()
    if torch.cuda.is_available() and (world == 1 or distributed.get_backend() == "nccl"):
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def sum_over_processes(value: Tensor) -> Tensor:
    """Sum of ``value`` over all processes, the same in each; alone, ``value`` itself."""
    if rank_and_world()[1] > 1:
        value = value.clone()
        distributed.all_reduce(value)
    return value


def gather(value: T) -> list[T]:
    """``value`` of every process, by rank, in each process."""
    world = rank_and_world()[1]
    if world == 1:
        return [value]
    values: list[Any] = [None] * world
    distributed.all_gather_object(values, value)
    return values


def share_buffers(model: nn.Module) -> None:
    """Give every process rank 0's buffers (running statistics), so that all evaluate the same model."""
    if rank_and_world()[1] > 1:
        for buffer in model.buffers():
            distributed.broadcast(buffer, src=0)
