"""Two pieces of work timed in turn, and what their ratio should be."""

import io
import statistics
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from typing import Any

import torch

Work = Callable[[], Any]
Timed = Callable[..., "Figure"]  # `ratio` with the repeats and the device given


@dataclass(frozen=True)
class Figure:
    """One row of the table: a median over pairs of runs, its range, and the bounds to keep."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    at_most: float | None = None
    at_least: float | None = None

    @property
    def met(self) -> bool | None:
        if self.at_most is not None:
            return self.value <= self.at_most
        return None if self.at_least is None else self.value >= self.at_least

    def record(self) -> dict[str, Any]:
        return asdict(self) | {"met": self.met}


def seconds(work: Work, device: torch.device) -> float:
    """Return the wall time of some work, the device's queue included."""
    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device.type, int)
    wait()
    start = time.perf_counter()
    with redirect_stdout(io.StringIO()):  # progress bars
        work()
    wait()
    return time.perf_counter() - start


def ratio(
    name: str,
    first: Work,
    second: Work,
    repeats: int,
    device: torch.device,
    scale: float = 1.0,
    **bounds: float,
) -> Figure:
    """Return `scale` times the ratio of two times, median over pairs of runs A B A B ...

    One run of each comes before. Other load slows both runs of a pair alike, so the ratio holds.
    """
    for work in (first, second):
        seconds(work, device)
    ratios = [scale * seconds(first, device) / seconds(second, device) for _ in range(repeats)]
    return Figure(name, statistics.median(ratios), min(ratios), max(ratios), **bounds)
