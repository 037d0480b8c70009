"""Where the time of one evaluation and of one training step goes, and what is launched.

Each part is timed by itself: what it calls inside is taken off. On a GPU every part waits for the
device, so shares hold and the sum is longer than the work alone.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.profiler import ProfilerActivity, profile

from pipeline.bench.ratios import Work, now, seconds, wait
from pipeline.scoring import score as scoring
from pipeline.steering import pair_batches
from pipeline.steering.methods.innerpissa import InnerPissa
from pipeline.steering.pair_batches import PairTokens
from pipeline.steering.training import objective, partwise

CHECKS = "checks"
HEAD = "answers and NLL"
REST = "the rest"
Place = tuple[Any, str, str]
EVALUATION: list[Place] = [
    (scoring, "make_prompts", "tokenising"),
    (scoring, "forward_rows", "laying out"),
    (scoring, "lay_out_rows", "laying out"),
    (scoring, "check_acts", CHECKS),
    (scoring, "check_reuse", CHECKS),
    (scoring, "cached", "bare forward"),
    (scoring, "final_states", "bare forward"),
    (scoring, "figures", HEAD),
]
TRAINING: list[Place] = [
    (PairTokens, "batch", "laying out"),
    (objective, "run_pairs", "bare forward"),
    (pair_batches, "state_nll", HEAD),
    (objective.Objective, "terms", "loss"),
    (partwise.PartwiseObjective, "add_gradients", "backward"),
    (torch.nn.utils, "clip_grad_norm_", "optimiser"),
    (torch.optim.AdamW, "step", "optimiser"),
]


class Stopwatch:
    def __init__(self, device: torch.device):
        self.device = device
        self.parts: dict[str, float] = defaultdict(float)
        self.running: list[str] = []
        self.since = 0.0

    def lap(self) -> None:
        """Give the time since the last lap to the part that runs."""
        time = now(self.device)
        if self.running:
            self.parts[self.running[-1]] += time - self.since
        self.since = time

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a part; a check counts as a whole."""
        if self.running[-1:] == [CHECKS]:
            yield
            return
        self.lap()
        self.running.append(name)
        try:
            yield
        finally:
            self.lap()
            self.running.pop()

    def timed(self, function: Callable, name: str) -> Callable:
        def run(*arguments, **options):
            with self.part(name):
                return function(*arguments, **options)

        return run

    @contextmanager
    def watching(self, places: list[Place]) -> Iterator[None]:
        """Time the functions at some places, and all of the adapter's hooks."""
        make = InnerPissa.hooks

        def hooks(*arguments):
            with self.part("M(c)"):
                found = make(*arguments)
            return [(name, self.timed(hook, "hooks")) for name, hook in found]

        with ExitStack() as stack:
            stack.enter_context(patch.object(InnerPissa, "hooks", hooks))
            for owner, name, part in places:
                timed = self.timed(getattr(owner, name), part)
                stack.enter_context(patch.object(owner, name, timed))
            yield


def breakdown(work: Work, places: list[Place], device: torch.device) -> dict[str, Any]:
    """Return the seconds of some work, the share of each part, and the counts of `launches`."""
    work()
    watch = Stopwatch(device)
    with watch.watching(places), watch.part(REST):
        seconds(work, device)
    total = sum(watch.parts.values())
    order = sorted(watch.parts, key=watch.parts.__getitem__, reverse=True)
    shares = {name: watch.parts[name] / total for name in order}
    return {"seconds": total, **launches(work, device), "shares": shares}


def launches(work: Work, device: torch.device) -> dict[str, int | None]:
    """Return how many operations some work calls; on CUDA its kernels, its copies and their time.

    An operation that is called by another one is not counted.
    """
    cuda = device.type == "cuda"
    kinds = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * cuda]
    with profile(activities=kinds) as seen:
        work()
        wait(device)
    events = seen.events() or []
    calls = [
        each
        for each in events
        if each.name.startswith("aten::")
        and not (each.cpu_parent and each.cpu_parent.name.startswith("aten::"))
    ]
    kernels = [each for each in events if each.name.startswith("cudaLaunch")]
    copies = [each for each in events if each.name.startswith("Memcpy")]
    return {
        "operations": len(calls),
        "kernels": len(kernels) if cuda else None,
        "transfers": len(copies) if cuda else None,
        "transfer_ms": round(sum(each.device_time for each in copies) / 1000) if cuda else None,
    }
