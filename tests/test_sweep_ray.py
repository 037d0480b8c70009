"""A sweep on two Ray workers: one is lost and the bytes are a local run's; a killed process, a failure, Ctrl-C."""

import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT
from tests.project import BIN, Project, environment, make_project, quick
from tests.test_queue import cut_power, shown, wait_for

pytestmark = pytest.mark.slow


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """Yield the address of a server on loopback with a sqlite store."""
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    own = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [BIN / "mlflow", "server", "--workers", "1", "--port", port]
    server = subprocess.Popen(
        [*command, "--backend-store-uri", f"sqlite:///{folder}/runs.db"], cwd=folder,
        env=environment() | own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip

    def answers() -> bool:
        try:
            return (
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200
            )
        except OSError:
            return False

    try:
        wait_for(answers, 180)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


@contextmanager
def ray_cluster(folder: Path, **extra: str) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield the address of a cluster and its two workers by name, each with a folder of its own."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    workers = {}
    try:
        for name in ("one", "two"):
            (folder / name).mkdir(parents=True)
            own = (
                environment() | extra | {"TMPDIR": str(folder / name), "INNERPISSA_TRACKING": "on"}
            )
            workers[name] = cluster.add_node(num_cpus=1, env_vars=own)
        yield cluster.address, workers
    finally:
        cluster.shutdown()
        cut_power(Project(folder))


def lose(worker, folder: Path) -> None:
    """Kill all processes of a worker, as if its machine had gone."""
    [raylet] = worker.all_processes["raylet"]
    raylet = psutil.Process(raylet.process.pid)
    for process in (raylet, *raylet.children(recursive=True)):
        process.kill()
    cut_power(Project(folder))


def make_sweep_project(folder: Path) -> Project:
    """A project of one adapter, with a bare repository and a folder as its remotes."""
    (folder / "project").mkdir(parents=True)
    project = make_project(folder / "project", ["lora"], ["mean_diff"])
    yaml = YAML()
    params = yaml.load(project.folder / "params.yaml")
    params["composition"]["behaviours"] = []
    yaml.dump(params, project.folder / "params.yaml")
    project.run("git", "init", "-q", "--bare", str(folder / "origin.git"))
    project.run("git", "remote", "add", "origin", str(folder / "origin.git"))
    project.run("dvc", "remote", "add", "-q", "--default", "store", str(folder / "store"))
    project.run("git", "commit", "-qam", "remotes")
    return project


def results(project: Project) -> dict[str, str]:
    """Return each experiment's name -> git's hashes of its reports, lock file and parameters."""
    refs = project.run("git", "for-each-ref", "--format=%(refname)", "refs/exps").split()
    found = {ref.rpartition("/")[2]: ref for ref in refs if ref.count("/") == 4}
    parts = ("reports", "dvc.lock", "params.yaml")
    return {
        name: project.run("git", "rev-parse", *(f"{ref}:{part}" for part in parts))
        for name, ref in found.items()
    }


def test_two_ray_workers_of_which_one_is_lost_make_what_a_local_run_makes(tmp_path):
    """The second experiment's worker is lost while it trains; its second attempt finds what the first one had finished."""
    pytest.importorskip("ray")
    from mlflow import MlflowClient

    project, meeting = make_sweep_project(tmp_path / "remote"), tmp_path / "meeting"
    alone = Project(tmp_path / "alone")
    project.run("git", "clone", "-q", str(project.folder), str(alone.folder))
    (tmp_path / "quick").mkdir()
    sweep = [sys.executable, "-m", "pipeline", "sweep", "-S"]
    both = [*sweep, "statistics.bootstrap=100,120", "--on", "ray"]
    with quick(tmp_path / "quick") as path, mlflow_server(tmp_path / "mlflow") as uri:
        meet = {"PATH": path, "MEET": "train 2", "MEETING": str(meeting)}
        own = {"PATH": path, "MLFLOW_TRACKING_URI": uri}
        with ray_cluster(tmp_path / "workers", **meet) as (address, workers):
            driver = subprocess.Popen(
                both, cwd=project.folder, env=environment() | own | {"RAY_ADDRESS": address},
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
            wait_for(lambda: driver.poll() or len(list(meeting.glob("train-*"))) == 2)
            assert driver.poll() is None, driver.communicate()[0]
            [checkout] = (tmp_path / "workers").glob("*/bootstrap-120-*")
            lose(workers[checkout.parent.name], checkout.parent)
            said = driver.communicate(timeout=900)[0]
            assert driver.returncode == 0, said
            [survivor] = {"one", "two"} - {checkout.parent.name}
            assert not list((tmp_path / "workers" / survivor).glob("bootstrap-*"))
        assert "2 of 2 experiments have to run" in said
        assert "0 of 2 experiments have to run" in project.run(*both, **own)
        alone.run(*sweep, "statistics.bootstrap=120", PATH=path, INNERPISSA_TRACKING="off")

        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name("innerpissa").experiment_id
        parents = client.search_runs([experiment], "tags.kind = 'pipeline'")
        names = sorted(results(project))
        assert sorted(run.info.run_name for run in parents) == names == sorted(shown(project))
        assert {run.info.status for run in parents} == {"FINISHED"}
        assert {run.data.tags["pipeline.complete"] for run in parents} == {"true"}
        [second] = [run for run in parents if run.info.run_name == names[1]]
        children = client.search_runs(
            [experiment], f"tags.`mlflow.parentRunId` = '{second.info.run_id}'"
        )
        cached = {run.info.run_name for run in children if "cached" in run.data.tags}
        assert "evaluate@lora-0" in cached
    assert [name[:14] for name in names] == ["bootstrap-100-", "bootstrap-120-"]
    assert results(alone) == {names[1]: results(project)[names[1]]}
    project.run(sys.executable, "-m", "pipeline", "compare", *names)
    assert "bootstrap" in (project.folder / "reports/comparison/comparison.md").read_text()


WORK = """
import os, sys, time
from pathlib import Path
from ruamel.yaml import YAML
rank = YAML(typ="safe").load(Path("params.yaml"))["rank"]
print("the work of", rank, flush=True)
if rank == 32:
    sys.exit("too much")
while rank == 16 and Path(os.environ["HOLD"]).exists():
    time.sleep(0.1)
Path("out.txt").write_text(str(rank))
"""
STAGE = "stages: {work: {cmd: python work.py, deps: [work.py], params: [rank], outs: [out.txt]}}"


def checkouts(folder: Path) -> dict[str, list[psutil.Process]]:
    """Return each checkout of a worker and the processes that work in it, the first of them DVC's."""
    found = {str(path): [] for path in folder.glob("*/rank-*")}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError, KeyError):
            found[process.cwd()].append(process)
    return found


def test_a_killed_process_a_failure_and_ctrl_c_leave_nothing_half_done(tmp_path):
    """One stage that fails for rank 32 and, while it is held, waits for rank 16."""
    pytest.importorskip("ray")
    (folder := tmp_path / "project").mkdir()
    (folder / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    (folder / "dvc.yaml").write_text(STAGE)
    (folder / "work.py").write_text(WORK)
    project, hold, workers = Project(folder), tmp_path / "hold", tmp_path / "workers"
    for words in ("git init -q", "dvc init -q", f"dvc remote add -q -d store {tmp_path}/store"):
        project.run(*words.split(" "))
    project.run("git", "init", "-q", "--bare", str(tmp_path / "origin.git"))
    project.run("git", "remote", "add", "origin", str(tmp_path / "origin.git"))
    project.run("git", "add", "-A")
    project.run("git", "commit", "-qm", "start")
    hold.touch()
    sweep = [sys.executable, "-m", "pipeline", "sweep", "--on", "ray", "-S"]
    cleaning = {"HOLD": str(hold), "RAY_process_group_cleanup_enabled": "true"}
    with ray_cluster(workers, **cleaning) as (address, _):
        own = {"RAY_ADDRESS": address, "PYTHONPATH": str(ROOT), "INNERPISSA_TRACKING": "off"}
        own |= {"RAY_DEDUP_LOGS": "0"}
        assert "has 64 CPUs" in project.run(*sweep, "rank=8", "--cpus", "64", code=2, **own)
        with (tmp_path / "said").open("w") as said:
            driver = subprocess.Popen(
                [*sweep, "rank=8,16,32"], cwd=folder, env=environment() | own, stdout=said, stderr=said
            )  # fmt: skip

        def tells(*texts: str) -> bool:
            assert driver.poll() is None, (tmp_path / "said").read_text()
            return all(text in (tmp_path / "said").read_text() for text in texts)

        wait_for(lambda: tells("rank-8", "has finished on", "ended with", "work of 16"), 180)
        [(checkout, processes)] = checkouts(workers).items()
        psutil.Process(processes[0].ppid()).kill()  # Ray's
        wait_for(lambda: checkouts(workers)[checkout] == [], 120)
        wait_for(lambda: any(len(own) > 1 for own in checkouts(workers).values()), 120)
        shutil.rmtree(checkout)
        driver.send_signal(signal.SIGINT)
        assert driver.wait(timeout=120) == 130
        assert checkouts(workers) == {}
        assert [name[:7] for name in shown(project)] == ["rank-8-"]
        assert project.run("git", "status", "--porcelain") == ""

        hold.unlink()
        again = project.run(*sweep, "rank=8,16,32", code=2, **own)
        assert "2 of 3 experiments have to run" in again
        assert re.search("error: rank-32-\\w+ failed, as said above: once mended", again)
        assert sorted(name[:7] for name in shown(project)) == ["rank-16", "rank-8-"]
        assert checkouts(workers) == {}
