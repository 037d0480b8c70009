"""A `python` for DVC's stage commands that costs few imports: a server that has them forks one process per command.

Each stage still is a process of its own, which can be killed. The server kills it at a chosen rename, if told to: whole files
come by renaming, so that is when most is half done.
"""

import json
import os
import runpy
import signal
import socket
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    said = dict(arguments=sys.argv[1:], folder=os.getcwd(), environment=dict(os.environ))
    socket.send_fds(server, [json.dumps(said).encode()], [0, 1, 2])
    code = int(server.recv(16))
os.kill(os.getpid(), -code) if code < 0 else sys.exit(code)
"""


def install(folder: Path, address: Path) -> None:
    """Write the client as `python` into a folder."""
    folder.mkdir()
    (folder / "python").write_text(CLIENT.format(python=sys.executable, address=str(address)))
    (folder / "python").chmod(0o755)


def kill_at(rename: int) -> None:
    """Kill this process by SIGKILL instead of its n-th rename."""
    left, replace = iter(range(rename - 1, -1, -1)), Path.replace

    def last(path, target):
        if next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(path, target)

    Path.replace = last


def meet(name: str, folder: Path, count: int) -> None:
    """Hold a stage until so many folders have arrived at it."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}-{Path.cwd().name}").touch()
    while len(list(folder.glob(f"{name}-*"))) < count:
        time.sleep(0.1)


def stage(arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    """Do what `python -m pipeline ...` does in that folder.

    With KILLS, the n-th attempt dies at its n-th rename, up to KILLS. With MEET, the stage of that name waits in the folder MEETING
    until as many as MEET says have come.
    """
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments[1:]
    sys.path.insert(0, folder)
    if kills := int(os.environ.get("KILLS", "0")):
        attempts = Path(os.environ["ATTEMPTS"]) / "-".join(arguments[1:])
        attempts.parent.mkdir(exist_ok=True)
        attempt = len(attempts.read_text()) + 1 if attempts.exists() else 1
        attempts.write_text("x" * attempt)
        if attempt <= kills:
            kill_at(attempt)
    if os.environ.get("MEET", "").partition(" ")[0] == arguments[2]:
        name, count = os.environ["MEET"].split()
        meet(name, Path(os.environ["MEETING"]), int(count))
    runpy.run_module(arguments[1], run_name="__main__")


def serve(address: str) -> None:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read at import
    import mlflow  # noqa: F401

    import pipeline.stages.composition
    import pipeline.stages.evaluate
    import pipeline.stages.report
    import pipeline.stages.train  # noqa: F401

    # The project's own modules are left to the fork: they are those of its folder, and read its environment.
    for name in [name for name in sys.modules if name.partition(".")[0] == "pipeline"]:
        del sys.modules[name]
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        signal.signal(
            signal.SIGCHLD, signal.SIG_IGN
        )  # those that wait for a stage leave no zombies
        print("ready", flush=True)
        while True:
            client, _ = server.accept()
            message, files, _, _ = socket.recv_fds(client, 1 << 18, 3)
            if os.fork():
                for file in files:
                    os.close(file)
                client.close()
                continue
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            if pid := os.fork():
                _, status = os.waitpid(pid, 0)
                with suppress(BrokenPipeError):  # killed meanwhile
                    client.send(str(os.waitstatus_to_exitcode(status)).encode())
                os._exit(0)
            code = 1
            try:
                for target, file in enumerate(files):
                    os.dup2(file, target)
                stage(**json.loads(message))
                code = 0
            except SystemExit as left:
                code = left.code if isinstance(left.code, int) else 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])
