"""`dvc repro` with independent cells side by side.

Each stage runs through `dvc repro --single-item`, which holds DVC's own locks. So cache, lock file
and status are as after a serial run, and a killed run goes on where it was.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from graphlib import TopologicalSorter
from queue import SimpleQueue
from threading import Lock

import psutil

from pipeline.app.forkserver import forkserver
from pipeline.study.params import Params, load_params
from pipeline.support.errors import InputError
from pipeline.support.files import read_json
from pipeline.support.paths import MANIFEST
from pipeline.support.threads import JOBS, SMALL, cores

DVC = [sys.executable, "-m", "dvc"]
LONGEST = "@random"  # a cell of all random directions; begun last, it would run on alone
MEMORY = 1.5e9  # bytes that a cell of a small model may need
EDGE = re.compile(r'"([^"]+)" -> "([^"]+)"')
# What DVC and transformers say around every stage.
NOISE = re.compile(
    r"Running stage|> python|Updating lock|Generating lock|Loading weights|Use `dvc|$"
)


def main(jobs: int | None) -> None:
    if jobs is not None and jobs < 1:
        raise InputError(f"jobs is {jobs}: give 1 or more")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the cells end too
    call("repro", "sources", "code", "model")
    jobs = jobs or default_jobs(load_params())
    if not (stale := changed()):
        print("Data and pipelines are up to date.")
        return
    with forkserver():
        if jobs > 1:
            Runner(jobs).run(graph(), stale)
        call("repro")  # what is left


def call(*words: str) -> None:
    if code := subprocess.run([*DVC, *words]).returncode:
        sys.exit(code)


def said(*words: str) -> str:
    done = subprocess.run([*DVC, *words], stdout=subprocess.PIPE, encoding="utf-8")
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


def graph() -> dict[str, set[str]]:
    """Return stage or cell -> those that it waits for."""
    before: dict[str, set[str]] = {}
    for first, then in EDGE.findall(said("dag", "--dot")):
        before.setdefault(first, set())
        before.setdefault(then, set()).add(first)
    return before


def changed() -> set[str]:
    """Return the stages whose own dependencies, parameters or outputs are not those of dvc.lock."""
    status: dict[str, list] = json.loads(said("status", "--json"))
    return {
        name for name, reasons in status.items() if set(map(str, reasons)) != {"always changed"}
    }


def default_jobs(params: Params) -> int:
    """Return the number of GPUs, or of cores; a large model shares the cores within one cell."""
    if params.processes > 1 or params.device not in ("auto", "cpu", "cuda"):
        return 1
    if params.device != "cpu" and (cards := len(gpus())):
        return cards
    if params.device == "cuda" or sys.platform == "darwin":
        return 1
    if read_json(MANIFEST, "model")["hidden_size"] >= SMALL:
        return 1
    return max(1, min(cores(), int(psutil.virtual_memory().available / MEMORY)))


def gpus() -> list[str]:
    """Return the CUDA devices that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if not shutil.which("nvidia-smi"):
        return []
    import torch

    count = torch.cuda.device_count()
    if given := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return given.split(",")[:count]
    return [str(number) for number in range(count)]


class Runner:
    """So many places, each for one cell; on several GPUs a place has one of them."""

    def __init__(self, jobs: int):
        self.jobs, self.running = jobs, set[subprocess.Popen]()
        self.starting, self.stopped = Lock(), False
        self.places: SimpleQueue[int] = SimpleQueue()
        for place in range(jobs):
            self.places.put(place)
        self.cards = gpus() if load_params().device in ("auto", "cuda") else []

    def run(self, graph: dict[str, set[str]], stale: set[str]) -> None:
        """Run what is stale and what follows from it; after a failure start nothing more."""
        sorter, ran = TopologicalSorter(graph), set[str]()
        sorter.prepare()
        waiting: dict[Future[int], str] = {}
        failed: list[str] = []
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                while sorter.is_active() and (not failed or waiting):
                    ready = () if failed else sorter.get_ready()
                    for name in sorted(ready, key=lambda name: not name.endswith(LONGEST)):
                        if name in stale or graph[name] & ran:
                            ran.add(name)
                            waiting[pool.submit(self.cell, name)] = name
                        else:
                            sorter.done(name)
                    if waiting and not ready:  # nothing more can start now
                        done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                        failed += self.finish(done, waiting, sorter)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
                self.stop()
        if failed:
            raise InputError(
                f"{', '.join(failed)} failed, as said above: once mended, the same command goes on"
            )

    def finish(
        self,
        done: Iterable[Future[int]],
        waiting: dict[Future[int], str],
        sorter: TopologicalSorter,
    ) -> list[str]:
        """Note the cells that ended; return those that failed."""
        ended = [(waiting.pop(future), future) for future in done]
        sorter.done(*(name for name, _ in ended))
        return [name for name, future in ended if future.cancelled() or future.result()]

    def cell(self, name: str) -> int:
        """Run one stage in a free place, its lines under its name; return DVC's exit code."""
        place = self.places.get()
        try:
            command = [*DVC, "--wait-for-lock", "repro", "--single-item", name]
            with self.starting:
                if self.stopped:
                    return 1
                process = subprocess.Popen(
                    command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
                    errors="replace", env=self.environment(place),
                )  # fmt: skip
                self.running.add(process)
            print(f"{name} | started", flush=True)
            assert process.stdout
            for line in process.stdout:
                if not NOISE.match(line.strip()):
                    print(f"{name} | {line.rstrip()}", flush=True)
            return process.wait()
        finally:
            self.places.put(place)

    def environment(self, place: int) -> dict[str, str]:
        own = {JOBS: str(self.jobs), "PYTHONUNBUFFERED": "1"}
        if len(self.cards) > 1:
            own["CUDA_VISIBLE_DEVICES"] = self.cards[place % len(self.cards)]
        return os.environ | own

    def stop(self) -> None:
        """End what runs, start nothing more. DVC, killed alone, would leave its stage running."""
        with self.starting:
            self.stopped = True
        for process in self.running:
            with suppress(psutil.NoSuchProcess):
                parent = psutil.Process(process.pid)
                parent.suspend()  # so that it starts no stage meanwhile
                for each in (*parent.children(recursive=True), parent):
                    each.terminate()
                    each.resume()
