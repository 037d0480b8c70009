"""Several processes that share one stage's work; the results are those of one, to rounding.

Each holds the whole model. `accelerate launch`, `torchrun` and `processes` in params.yaml start
them. Without any, every function here does nothing.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.support.errors import InputError

T = TypeVar("T")
PATIENCE = timedelta(hours=2)  # waited for the others' share, before they are taken for dead


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Join the processes that were started together, each with a GPU, for a `with` block."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    if ":" in device:
        raise InputError(
            f"device {device!r} is one card, for several processes: take auto or cuda, or "
            "processes 1"
        )
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available(), timeout=PATIENCE)
    try:
        yield
    finally:
        state.destroy_process_group()
        PartialState._reset_state()


def count() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def number() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this process writes, tracks and prints."""
    return number() == 0


def every_nth(items: list[T]) -> list[T]:
    """Return this process's share, even where items are rows in the order of their length."""
    return items[number() :: count()]


def merge(own: dict[int, Tensor]) -> dict[int, Tensor]:
    """Return what all processes computed together; the tensors are on the CPU."""
    if count() == 1:
        return own
    everyone: list[dict[int, Tensor]] = [{}] * count()
    dist.all_gather_object(everyone, own)
    return {key: value for each in everyone for key, value in each.items()}


def add_up(tensors: list[Tensor]) -> None:
    """Replace each tensor, in place, by its sum over all processes."""
    if count() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)


def add_up_gradients(parameters: list[nn.Parameter]) -> None:
    """Replace gradients by their sums over all processes, in one message; none counts as zero."""
    if count() == 1:
        return
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    parts = flat.split([parameter.numel() for parameter in parameters])
    for parameter, total in zip(parameters, parts, strict=True):
        parameter.grad = total.view_as(parameter).clone()


def same_everywhere(tensors: list[Tensor]) -> None:
    """Give all processes, in place, the first one's tensors."""
    if count() > 1:
        for tensor in tensors:
            dist.broadcast(tensor.detach(), 0)
