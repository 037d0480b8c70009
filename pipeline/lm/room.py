"""How many rows fit into memory at once: found by trying."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from pipeline.support.errors import InputError

Row = TypeVar("Row")
Found = TypeVar("Found")


def out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)


class Room:
    """A number of rows per forward pass that halves, for good, whenever memory runs out."""

    def __init__(self, size: int, what: str, setting: str):
        self.size, self.what, self.setting = size, what, setting

    def each(
        self, rows: list[Row], work: Callable[[list[Row]], Found]
    ) -> Iterator[tuple[list[Row], Found]]:
        """Yield rows, at most `size` at a time and in their order, with what `work` makes of them.

        InputError where a single row is too much.
        """
        start = 0
        while start < len(rows):
            part = rows[start : start + self.size]
            try:
                found = work(part)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
            else:
                start += len(part)
                yield part, found
                continue
            # Outside of the handler: the error holds on to the tensors of the failed pass.
            self.halve(len(part))

    def halve(self, tried: int) -> None:
        if tried == 1:
            raise InputError(
                f"memory does not suffice for {self.what} a single row: {self.setting}"
            )
        self.size = tried // 2
        clear_device_cache(garbage_collection=True)
        print(f"{self.what}: out of memory with {tried} rows at once, going on with {self.size}")
