"""Rows through a model, some at a time: shared out over processes, halved when memory runs out,
kept for a second start.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from pipeline.lm import processes
from pipeline.lm.room import Room
from pipeline.support.progress import track
from pipeline.support.scratch import Scratch

Row = TypeVar("Row")
SETTING = "shorten the texts, quantise the model, or take a device with more memory"


def in_batches(
    rows: list[Row],
    size: int,
    work: Callable[[list[Row]], Tensor],
    title: str,
    scratch: Scratch | None = None,
) -> Tensor:
    """Return what `work` makes of all rows [n, ...], on the CPU and in their order, `size` rows at
    a time.

    The last rows, which are the longest where rows are sorted by length, come first, so that memory
    errors come early. Every process calls this with the same rows and gets all results. What
    `scratch` has of an interrupted run is not computed again.
    """
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    file = scratch.file(f"{title}-{processes.number()}-of-{processes.count()}") if scratch else None
    found: dict[int, Tensor] = (file.read() if file else None) or {}
    room = Room(size, title, SETTING)
    todo = [index for index in processes.share(list(range(len(parts)))[::-1]) if index not in found]
    for index in track(todo, title, len(todo)):
        found[index] = torch.cat([made.cpu() for _, made in room.each(parts[index], work)])
        if file and file.due():
            file.write(found)
    whole = processes.merge(found)
    return torch.cat([whole[index] for index in range(len(parts))])
