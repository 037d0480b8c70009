"""Start the processes of a stage that several share, where params.yaml asks for more than one."""

import os
import socket
import sys
from importlib import import_module


def in_processes(module: str, function: str, *arguments) -> None:
    """Call a function in `processes` processes; in this one, if a launcher has started several."""
    from pipeline.study.params import load_params

    count = load_params().processes
    if count == 1 or "WORLD_SIZE" in os.environ:
        getattr(import_module(f"pipeline.{module}"), function)(*arguments)
        return
    from torch.multiprocessing.spawn import ProcessExitedException, start_processes

    threads = max(1, (os.cpu_count() or 1) // count)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    port = str(free_port())
    os.environ |= {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    try:
        start_processes(one, args=(module, function, arguments), nprocs=count, start_method="spawn")
    except ProcessExitedException as error:
        sys.exit(error.exit_code)  # it has said why


def one(rank: int, module: str, function: str, arguments: tuple) -> None:
    """Be one of the processes."""
    from pipeline.support.errors import guarded, speak_utf8

    speak_utf8()
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    with guarded():
        getattr(import_module(f"pipeline.{module}"), function)(*arguments)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]
