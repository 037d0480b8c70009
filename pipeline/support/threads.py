"""Threads on a CPU: as many as help, and none that spins while it waits for the others."""

import os

SMALL = 512  # hidden size below which threads wait longer for each other than they compute
JOBS = "INNERPISSA_JOBS"  # set where several cells run side by side: how many
# By default OpenMP's threads spin; beside busy processes each then waits for one that does not run.
CALM = {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1"}


def cores() -> int:
    """Return how many cores this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def wait_asleep() -> None:
    """Let waiting threads sleep, unless the environment says otherwise; call it before torch."""
    for name, value in CALM.items():
        os.environ.setdefault(name, value)


def choose_threads(hidden_size: int) -> None:
    """Give a small model one thread, and others this cell's share of the cores.

    The last digits of a result depend on the number of threads, so it is no matter of the load.
    OMP_NUM_THREADS and MKL_NUM_THREADS, where given, stay as they are.
    """
    import torch

    if os.environ.keys() & {"OMP_NUM_THREADS", "MKL_NUM_THREADS"}:
        return
    share = max(1, cores() // int(os.environ.get(JOBS, 1)))
    torch.set_num_threads(1 if hidden_size < SMALL else share)
