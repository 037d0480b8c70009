"""A `python` for DVC's stage commands that costs no imports: a server that has them forks one process per command.

Each stage still is a process of its own, which can be killed. The server kills it at a chosen rename, if told to: whole files
come by renaming, so that is when most is half done.
"""

import json
import os
import runpy
import signal
import socket
import sys
import traceback
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


def stage(arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    """Do what `python -m pipeline ...` does, and leave; with KILLS, the n-th attempt dies at its n-th rename, up to KILLS."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments[1:]
    attempts = Path(os.environ["ATTEMPTS"]) / "-".join(arguments[1:])
    attempts.parent.mkdir(exist_ok=True)
    attempt = len(attempts.read_text()) + 1 if attempts.exists() else 1
    attempts.write_text("x" * attempt)
    if attempt <= int(os.environ["KILLS"]):
        kill_at(attempt)
    runpy.run_module(arguments[1], run_name="__main__")


def serve(address: str) -> None:
    import pipeline.stages.composition
    import pipeline.stages.evaluate
    import pipeline.stages.report
    import pipeline.stages.train  # noqa: F401

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        print("ready", flush=True)
        while True:
            client, _ = server.accept()
            message, files, _, _ = socket.recv_fds(client, 1 << 18, 3)
            if pid := os.fork():
                for file in files:
                    os.close(file)
                _, status = os.waitpid(pid, 0)
                client.send(str(os.waitstatus_to_exitcode(status)).encode())
                client.close()
                continue
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
