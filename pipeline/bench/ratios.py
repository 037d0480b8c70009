"""Pieces of work timed in turn, and what the ratios of their times should be."""

import io
import statistics
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from typing import Any

import torch

Work = Callable[[], Any]


@dataclass(frozen=True)
class Figure:
    """One row of the table: a median over rounds, its range, and the bounds to keep."""

    name: str
    value: float | None
    """None where what it needs is not here; `why` says what."""
    low: float | None = None
    high: float | None = None
    at_most: float | None = None
    at_least: float | None = None
    why: str | None = None

    @property
    def met(self) -> bool | None:
        if self.value is None:
            return None
        if self.at_most is not None:
            return self.value <= self.at_most
        return None if self.at_least is None else self.value >= self.at_least

    @property
    def aim(self) -> str:
        bounds = {"at most": self.at_most, "at least": self.at_least}
        return "".join(f"{name} {bound:g}" for name, bound in bounds.items() if bound is not None)

    def record(self) -> dict[str, Any]:
        return asdict(self) | {"met": self.met}


def wait(device: torch.device) -> None:
    """Wait for the device's queue."""
    {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device.type, int)()


def now(device: torch.device) -> float:
    """Return seconds, once the device's queue is empty; on a CPU those that this process ran."""
    wait(device)
    return time.process_time() if device.type == "cpu" else time.perf_counter()


def seconds(work: Work, device: torch.device) -> float:
    """Return the time of some work, as `now` counts it."""
    start = now(device)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # progress bars
        work()
    return now(device) - start


@dataclass(frozen=True)
class Timer:
    """Times pieces of work in rounds A B C A B C ..., after one round to warm up.

    What slows a round slows all of its works alike, so that ratios within rounds hold.
    """

    device: torch.device
    repeats: int

    def __call__(self, works: dict[str, Work]) -> "Times":
        rounds = [
            {name: seconds(work, self.device) for name, work in works.items()}
            for _ in range(self.repeats + 1)
        ]
        return Times(rounds[1:])


@dataclass(frozen=True)
class Times:
    """Seconds by name, one dictionary per round."""

    rounds: list[dict[str, float]]

    def ratio(
        self, name: str, first: str, second: str, scale: float = 1.0, **bounds: Any
    ) -> Figure:
        """Return `scale` times the ratio of two times."""
        ratios = [scale * each[first] / each[second] for each in self.rounds]
        return Figure(name, statistics.median(ratios), min(ratios), max(ratios), **bounds)
