"""Rows through a model, some at a time: shared by processes, halved where memory runs out, kept."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor

from pipeline.lm import processes
from pipeline.support.errors import InputError
from pipeline.support.progress import track
from pipeline.support.scratch import Scratch

Row = TypeVar("Row")
Result = TypeVar("Result")
ADVICE = "shorten the texts, quantise the model, or take a device with more memory"


def out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)


class RowLimit:
    """How many rows a forward pass takes; it halves, for good, whenever memory runs out."""

    def __init__(self, size: int, title: str, advice: str):
        self.size = size
        self.title = title
        self.advice = advice

    def each(
        self, rows: list[Row], work: Callable[[list[Row]], Result]
    ) -> Iterator[tuple[list[Row], Result]]:
        """Yield at most `size` rows at a time, in order, with what `work` makes of them.

        Raises InputError where a single row is too much.
        """
        start = 0
        while start < len(rows):
            part = rows[start : start + self.size]
            try:
                result = work(part)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
            else:
                start += len(part)
                yield part, result
                continue
            # Outside of the handler: the error holds on to the tensors of the failed pass.
            self.halve(len(part))

    def halve(self, tried: int) -> None:
        if tried == 1:
            raise InputError(
                f"memory does not suffice for {self.title} a single row: {self.advice}"
            )
        self.size = tried // 2
        clear_device_cache(garbage_collection=True)
        print(f"{self.title}: out of memory with {tried} rows at once, going on with {self.size}")


def in_batches(
    rows: list[Row], size: int, work: Callable[[list[Row]], Tensor], title: str,
    scratch: Scratch | None = None,
) -> Tensor:  # fmt: skip
    """Return what `work` makes of all rows [n, ...], on the CPU and in their order.

    The last rows come first: where rows are sorted by length, memory errors come early. Every
    process calls this with the same rows and gets all results. What `scratch` holds of an
    interrupted run is not computed again.
    """
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    file = scratch.file(f"{title}-{processes.number()}-of-{processes.count()}") if scratch else None
    done: dict[int, Tensor] = (file.read() if file else None) or {}
    limit = RowLimit(size, title, ADVICE)
    own = processes.every_nth(list(range(len(parts)))[::-1])
    todo = [index for index in own if index not in done]
    for index in track(todo, title, len(todo)):
        done[index] = torch.cat([result.cpu() for _, result in limit.each(parts[index], work)])
        if file and file.due():
            file.write(done)
    whole = processes.merge(done)
    return torch.cat([whole[index] for index in range(len(parts))])
