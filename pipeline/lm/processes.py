"""Several processes that share one stage's work. Each holds the whole model; the results are those
of one, to rounding.

`accelerate launch`, `torchrun` and `processes` in params.yaml start them; without any, every
function here does nothing.
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
PATIENCE = timedelta(
    hours=2
)  # how long one waits for the others' share before it takes them for dead


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Join the processes that were started together, for the duration of a `with` block; each has a
    GPU of its own.
    """
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


def share(items: list[T]) -> list[T]:
    """Return this process's share, every n-th, so that rows in the order of their length are shared
    out evenly.
    """
    return items[number() :: count()]


def merge(found: dict[int, Tensor]) -> dict[int, Tensor]:
    """Return what all processes found together; the tensors are on the CPU."""
    if count() == 1:
        return found
    everyone: list[dict[int, Tensor]] = [{}] * count()
    dist.all_gather_object(everyone, found)
    return {key: value for each in everyone for key, value in each.items()}


def add_up(tensors: list[Tensor]) -> None:
    """Replace each tensor, in place, by its sum over all processes."""
    if count() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)


def add_up_gradients(parameters: list[nn.Parameter]) -> None:
    """Replace the gradients by their sums over all processes, in one message; no gradient counts as
    zero.
    """
    if count() == 1:
        return
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    for parameter, found in zip(
        parameters, flat.split([p.numel() for p in parameters]), strict=True
    ):
        parameter.grad = found.view_as(parameter).clone()


def same_everywhere(tensors: list[Tensor]) -> None:
    """Give all processes, in place, the first one's tensors."""
    if count() > 1:
        for tensor in tensors:
            dist.broadcast(tensor.detach(), 0)
