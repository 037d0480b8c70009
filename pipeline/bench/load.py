"""How much a forward and backward pass slows down beside processes that keep the cores busy."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table

from pipeline.support.errors import InputError
from pipeline.support.threads import CALM, cores, wait_asleep

THREADS = {"OMP_NUM_THREADS", "MKL_NUM_THREADS", *CALM}


def main(source: str, busy: int, steps: int) -> None:
    """Print seconds alone and beside `busy` processes, with our threads and with OpenMP's own."""
    if busy < 1 or steps < 1:
        raise InputError(f"busy {busy}, steps {steps}: give at least 1 of each")
    fair = max(1.0, (busy + 1) / cores())
    drawn = Table(
        title=f"{source}: {busy} busy processes on {cores()} cores, load {os.getloadavg()[0]:.1f}; "
        f"one thread's fair share is {fair:.1f} times as long"
    )
    for name in ("threads", "alone, s", f"beside {busy}, s", "times"):
        drawn.add_column(name, justify="left" if name == "threads" else "right")
    spinning = {"OMP_NUM_THREADS": str(cores()), "OMP_WAIT_POLICY": "ACTIVE"}
    for name, settings in (("this project's", {}), ("one per core, spinning", spinning)):
        alone = seconds(source, steps, settings)
        with busy_processes(busy):
            beside = seconds(source, steps, settings)
        drawn.add_row(name, f"{alone:.2f}", f"{beside:.2f}", f"{beside / alone:.1f}")
    Console().print(drawn)


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    spin = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(spin) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def seconds(source: str, steps: int, settings: dict[str, str]) -> float:
    """Return the time of some steps in a process of its own: OpenMP reads its settings once."""
    plain = {name: value for name, value in os.environ.items() if name not in THREADS}
    command = [sys.executable, "-m", "pipeline.bench.load", source, str(steps)]
    done = subprocess.run(command, env=plain | settings, stdout=subprocess.PIPE, encoding="utf-8")
    if done.returncode:
        raise InputError(f"the model {source!r} could not be run: name a folder or a hub id")
    return float(done.stdout.split()[-1])


def work(source: str, steps: int) -> float:
    """Return the seconds of some steps on 32 rows of 48 tokens."""
    import torch

    from pipeline.app.use import load_base

    model = load_base(source, "float32", "cpu").model
    ids = torch.zeros(32, 48, dtype=torch.long)
    start = 0.0
    for step in range(steps + 1):
        if step == 1:  # the first one warms up
            start = time.perf_counter()
        embedded = model.get_input_embeddings()(ids).requires_grad_(True)
        model(inputs_embeds=embedded).logits.logsumexp(-1).mean().backward()
    return time.perf_counter() - start


if __name__ == "__main__":
    wait_asleep()
    print(work(sys.argv[1], int(sys.argv[2])))
