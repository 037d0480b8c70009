"""Rows through a model, some at a time."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from pipeline.progress import track

Row = TypeVar("Row")


def in_batches(rows: list[Row], size: int, work: Callable[[list[Row]], Tensor], title: str) -> Tensor:
    """Return what `work` makes of all rows [n, ...], in their order, `size` rows at a time.

    The last rows, which are the longest where rows are sorted by length, come first, so that memory errors come early.
    """
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    found = [work(part) for part in track(parts[::-1], title, len(parts))]
    return torch.cat(found[::-1])
