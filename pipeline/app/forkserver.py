"""A fork server for one `repro`: it imports the libraries once, and each stage is a fork of it.

DVC starts `python -m pipeline <stage>` as ever. Under `repro` that process hands its arguments,
environment and open files to the server, passes signals on, and ends as the stage ended. The
project's own modules are imported in the fork, so that it runs the code as it is by then. The
server has neither threads nor anything on a GPU, which forks could not use. Where there is no
server, as on every system but Linux, a stage runs in the process that DVC started.
"""

import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path

ADDRESS = "INNERPISSA_FORKSERVER"
LIBRARIES = (
    *("transformers.modeling_utils", "transformers.models.auto.modeling_auto", "scipy.stats"),
    *("matplotlib.figure", "mlflow.store.tracking.sqlalchemy_store", "pydantic", "ruamel.yaml"),
    *("typer", "rich.progress", "psutil", "jaxtyping", "huggingface_hub", "safetensors.torch"),
    *("accelerate.utils", "jinja2", "filelock"),
)
# mlflow would begin a thread, and torch would ask CUDA, which forks of the asker cannot use.
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
PASSED_ON = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def forkserver() -> Iterator[None]:
    """Serve what is started in the body; server and stages end when this process does."""
    if sys.platform != "linux":
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"{folder}/socket")
            listener.listen()
            number = listener.fileno()
            # A session of its own, so that a terminal's Ctrl-C comes once, by the client.
            server = subprocess.Popen(
                [sys.executable, "-u", "-m", __name__, str(number)], stdin=subprocess.PIPE,
                pass_fds=[number], start_new_session=True, env=os.environ | QUIET,
            )  # fmt: skip
        os.environ[ADDRESS] = f"{folder}/socket"
        try:
            yield
        finally:
            del os.environ[ADDRESS]
            server.communicate()  # closes its input, upon which it ends


def hand_over() -> None:
    """Let the server run this command and end as it ended; return where no server answers."""
    if not (address := os.environ.pop(ADDRESS, None)):
        return
    told = os.fdopen(os.memfd_create("told"), "w", encoding="utf-8")
    with socket.socket(socket.AF_UNIX) as server, told:
        try:
            server.connect(address)
        except OSError:
            return
        json.dump([sys.argv, sys.path, str(Path.cwd()), dict(os.environ)], told)
        told.flush()
        socket.send_fds(server, [b"."], [0, 1, 2, told.fileno()])
        for number in PASSED_ON:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda number, _: server.send(bytes([number])))
        code = server.recv(16)
    if not code:
        sys.exit("error: `repro` has ended, and its stages with it: run the same command again")
    if int(code) < 0:
        for number in PASSED_ON:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), -int(code))
    sys.exit(int(code))


def preload() -> None:
    """Import the libraries, but for polars, which begins threads at import."""
    sys.modules["polars"] = None  # type: ignore[assignment]
    for name in LIBRARIES:
        import_module(name)
    del sys.modules["polars"]
    for name in [name for name in sys.modules if name.partition(".")[0] == "pipeline"]:
        del sys.modules[name]


def serve(listener: socket.socket) -> None:
    """Fork a process for each client, and return in it; end all when the input is closed."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those that attend leave no zombies
    while True:
        if sys.stdin in select.select([listener, sys.stdin], [], [])[0]:
            os.killpg(0, signal.SIGTERM)
        client = listener.accept()[0]
        if not os.fork():
            break
        client.close()
    listener.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    files = socket.recv_fds(client, 1, 4)[1]
    if not files:  # a client that is dead by now
        os._exit(0)
    if stage := os.fork():
        attend(client, stage, files)
    client.close()
    become(files)


def attend(client: socket.socket, stage: int, files: list[int]) -> None:
    """Pass a client's signals on to its stage, and the stage's exit code back."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for file in files:
        os.close(file)
    ended = os.pidfd_open(stage)
    while ended not in select.select([client.fileno(), ended], [], [])[0]:
        sent = client.recv(1)
        os.kill(stage, sent[0] if sent else signal.SIGKILL)  # nothing comes from a dead client
    code = os.waitstatus_to_exitcode(os.waitpid(stage, 0)[1])
    with suppress(BrokenPipeError):
        client.send(str(code).encode())
    os._exit(0)


def become(files: list[int]) -> None:
    """Take on a client's open files, arguments, folder and environment."""
    with os.fdopen(files.pop(), encoding="utf-8") as told:
        told.seek(0)
        sys.argv, sys.path[:], folder, environment = json.load(told)
    for target, file in enumerate(files):
        os.dup2(file, target)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as listener:
        preload()
        serve(listener)
    runpy.run_module("pipeline", run_name="__main__", alter_sys=True)
