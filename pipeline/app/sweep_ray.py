"""One Ray task per experiment, in a clean checkout on whichever machine has room.

Git carries the commit there and the experiment back; the project's DVC remote carries the cache and
the run cache. An experiment's ref is pushed last, so whatever has a ref has finished.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import psutil

from pipeline.study import store
from pipeline.support.errors import InputError
from pipeline.support.git import git

RETRIES = 3  # how often an experiment is tried again whose worker was lost
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # the last digits of a result depend on them
PASSED = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "INNERPISSA_TRACKING", *THREADS)
DVC = [sys.executable, "-m", "dvc"]


def run_on_ray(
    tasks: dict[str, list[str]], commit: str, url: str, cpus: int, gpus: float | None
) -> list[str]:
    """Run experiments (name -> options of `dvc exp run`); return the names of those that failed."""
    check_places()
    ray, gpus = connect(cpus, gpus)
    if git("push", url, f"{commit}:refs/sweeps/{commit}") is None:
        raise InputError(f"git cannot push to {url!r}: get the right to, or name another by --git")
    if dvc("push", "--run-cache"):
        raise InputError("`dvc push --run-cache` failed, as said above: correct the DVC remote")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers need libraries only
    passed = {name: os.environ[name] for name in PASSED if name in os.environ}
    task = ray.remote(max_retries=RETRIES, num_cpus=cpus, num_gpus=gpus)(run_there)
    waiting = {
        task.options(name=name).remote(name, options, commit, url, passed, cpus): name
        for name, options in tasks.items()
    }
    failed = []
    try:
        while waiting:
            [job], _ = ray.wait(list(waiting), num_returns=1)
            name = waiting.pop(job)
            try:
                print(f"{name} has finished on {ray.get(job)}", flush=True)
            except ray.exceptions.RayError as error:
                print(f"{name}: {getattr(error, 'cause', None) or error}", flush=True)
                failed.append(name)
            else:
                failed += [name] if bring(url, commit, name) else []
    finally:  # after Ctrl-C the workers end their processes and remove their checkouts
        for job in waiting:
            ray.cancel(job)
        if waiting:
            ray.wait(list(waiting), num_returns=len(waiting), timeout=30)
        ray.shutdown()
    return failed


def check_places() -> None:
    """Refuse a cache or a tracking store that workers do not share."""
    command = [*DVC, "config", "--project", "core.remote"]
    if not subprocess.run(command, capture_output=True).stdout.strip():
        said = "there is no default DVC remote in .dvc/config, by which experiments share a cache"
        raise InputError(f"{said}: `dvc remote add --default NAME URL`, then commit .dvc/config")
    if os.environ.get("INNERPISSA_TRACKING") == "off":
        return
    if not (store.URI or "").startswith("http"):
        said = f"MLFLOW_TRACKING_URI is {store.URI or 'not set'}, and workers need a common server"
        raise InputError(f"{said}: name one as http://HOST:PORT, or set INNERPISSA_TRACKING=off")
    try:
        store.experiment_id(store.connect())  # here, as two first workers would both create it
    except Exception as error:
        said = f"MLFLOW_TRACKING_URI: {str(error).splitlines()[0]}"
        raise InputError(f"{said}: start that server, or correct the address") from None


def connect(cpus: int, gpus: float | None) -> tuple[Any, float]:
    """Join the running cluster; return Ray and how many GPUs each experiment takes."""
    try:
        import ray
    except ImportError:
        raise InputError("ray is not installed: `pip install --editable '.[ray]'`") from None
    try:
        ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), logging_level="ERROR")
    except (ConnectionError, RuntimeError) as error:
        said = f"no Ray cluster can be joined ({str(error).splitlines()[0]})"
        raise InputError(f"{said}: `ray start --head`, or set RAY_ADDRESS=HOST:6379") from None
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if gpus is None:
        gpus = float(any("GPU" in node for node in nodes))
    if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        said = f"no machine of the cluster has {cpus} CPUs and {gpus:g} GPUs"
        raise InputError(f"{said}: lower --cpus or --gpus, or add a machine by `ray start`")
    return ray, gpus


def dvc(*words: str) -> int:
    """Run a DVC command here; return its exit code."""
    return subprocess.run([*DVC, *words], env=environment()).returncode


def bring(url: str, commit: str, name: str) -> int:
    """Fetch an experiment and its cache, so that it is as if run here; return DVC's exit code."""
    return dvc("exp", "pull", "--quiet", url, ref(commit, name))


def ref(commit: str, name: str) -> str:
    """Return where DVC keeps an experiment in git."""
    return f"refs/exps/{commit[:2]}/{commit[2:]}/{name}"


def environment() -> dict[str, str]:
    """Return the environment for DVC, whose stages shall find this Python."""
    own, path = str(Path(sys.executable).parent), os.environ.get("PATH", "")
    path = path if own in path.split(os.pathsep) else f"{own}{os.pathsep}{path}"
    return {k: v for k, v in os.environ.items() if not k.startswith("DVC_")} | {"PATH": path}


def run_there(
    name: str, options: list[str], commit: str, url: str, passed: dict[str, str], cpus: int
) -> str:
    """On a worker: run an experiment, push its cache and, last, its ref; return the host's name."""
    own = {key: value for key, value in environment().items() if key not in PASSED}
    own["INNERPISSA_JOBS"] = str(max(1, (os.cpu_count() or 1) // cpus))
    made = ref(commit, name)
    given: dict[str, Any] = {"env": own | passed}
    if call("git", "ls-remote", url, made, **given):
        return "a worker that was lost after its last push"
    command = [sys.executable, "-m", "dvc"]
    with tempfile.TemporaryDirectory(prefix=f"{name}-", ignore_cleanup_errors=True) as folder:
        given["cwd"] = folder
        call("git", "init", "--quiet", **given)
        call("git", "fetch", "--quiet", url, f"refs/sweeps/{commit}", **given)
        call("git", "checkout", "--quiet", "--detach", commit, **given)
        try:
            call(*command, "exp", "run", "--pull", "--name", name, *options, **given)
        finally:  # what a failed one has finished is not run again
            call(*command, "push", "--run-cache", **given)
        call("git", "push", "--quiet", url, f"{made}:{made}", **given)
    return os.uname().nodename


def call(*command: str, **given: Any) -> str:
    """Return the last lines that a command prints; when this ends, so has all that it started."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
        errors="replace", **given,
    )  # fmt: skip
    said: deque[str] = deque(maxlen=20)

    def show() -> None:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            said.append(line)

    (reader := Thread(target=show)).start()
    try:
        while process.poll() is None:  # Ray interrupts nothing that blocks
            time.sleep(0.1)
    finally:
        with suppress(psutil.Error):
            for child in psutil.Process(process.pid).children(recursive=True):
                child.terminate()
            process.terminate()
        code = process.wait()
        reader.join()
    if code:
        raise RuntimeError(f"`{' '.join(command)}` ended with {code}:\n{''.join(said)}")
    return "".join(said)
