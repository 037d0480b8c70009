"""Progress with the time left, for every loop longer than a few seconds."""

import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")
SECONDS = 10.0  # between two lines where no terminal can show a bar


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    if total is None and isinstance(items, Sized):
        total = len(items)
    console = Console()
    if total and not console.is_terminal:
        yield from by_lines(items, what, total)
        return
    columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as bar:
        yield from bar.track(items, total=total)


def by_lines(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """Print a line every ten seconds: how many are done, how long the rest will take."""
    begun = last = time.monotonic()
    for number, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last >= SECONDS:
            last, left = now, (now - begun) / number * (total - number)
            print(f"{what} {number}/{total}, {left:.0f} s left", flush=True)
