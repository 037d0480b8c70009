"""A sweep is the product of its overrides, each run once; on two Ray workers of which one dies, with a local run's bytes."""

import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from ruamel.yaml import YAML

from pipeline.app import sweep, sweep_ray
from pipeline.app.sweep import clean_commit, expand, finished, main
from pipeline.app.sweep_ray import check_places, connect, run_there
from pipeline.study import store
from tests.conftest import ROOT
from tests.project import BIN, Project, environment, make_project, quick
from tests.refusals import refused
from tests.test_queue import cut_power, shown, wait_for


@pytest.fixture
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_a_sweep_is_the_product_of_its_overrides(in_root):
    found = expand(["rank=8,16", "seeds=[0]", "steering.innerpissa.lr=1e-3,0.02"])
    assert list(found.values()) == [
        [f"rank={rank}", "seeds=[0]", f"steering.innerpissa.lr={lr}"]
        for rank in (8, 16) for lr in (0.001, 0.02)
    ]  # fmt: skip
    assert [name[: -sweep.DIGEST] for name in found] == [
        f"rank-{rank}-lr-{lr}-" for rank in (8, 16) for lr in (0.001, 0.02)
    ]


def test_a_name_stands_for_all_parameters_and_not_for_how_they_are_written(in_root):
    [name] = expand(["rank=8"])
    assert name.startswith("rank-8-")
    assert list(expand(["rank=8,8"])) == [name]
    digits = {
        str(overrides): {each[-sweep.DIGEST :] for each in expand(overrides)}
        for overrides in (["rank=8"], ["seeds=[0, 1]", "rank=8,16"], ["rank=8", "seeds=[0]"])
    }
    alone, among, other = digits.values()
    assert alone < among and not alone & other


@pytest.mark.parametrize(("overrides", "said"), [
    (["rnak=8,16"], "-S rnak=8,16: Could not override 'rnak'.*: write -S KEY=VALUE"),
    (["+rnak=8"], "-S \\+rnak=8: rnak: .*not permitted"),
    (["rank=8,x"], "-S rank=x: rank: .*integer"),
    (["rank"], "-S rank: Error parsing override 'rank': write -S KEY=VALUE"),
    (["methods=lora"], "write \\[lora\\]"),
    (["rank=8", "methods=[lora],[pca]"], "'pca' does not belong"),
])  # fmt: skip
def test_overrides_that_are_none_are_refused_before_anything_starts(in_root, overrides, said):
    refused(said, expand, overrides)


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    """A small repository with one commit, in which the test works."""
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("INNERPISSA_TRACKING")
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "params.yaml").write_text("rank: 8\n", encoding="utf-8")
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
        subprocess.run(["git", *words], check=True)
    return folder


def test_what_would_not_travel_is_refused(repository, monkeypatch):
    assert len(clean_commit()) == 40
    (repository / "new.py").touch()
    refused("1 files are not as committed, such as new.py.*: commit", clean_commit)
    refused("git cannot read 'origin': `git remote add", finished, "origin", "0" * 40)
    refused("--on is 'slurm': allowed are local and ray", main, [], "slurm", "origin", 1, None)
    monkeypatch.chdir(repository.parent)
    refused("no commit here: `git init`", clean_commit)


def test_places_that_workers_do_not_share_are_refused(repository, monkeypatch):
    project = Project(repository)
    project.run("dvc", "init", "-q")
    refused("no default DVC remote .*: `dvc remote add --default", check_places)
    project.run("dvc", "remote", "add", "--local", "--default", "mine", "/nowhere")
    refused("no default DVC remote .*: `dvc remote add --default", check_places)
    project.run("dvc", "remote", "add", "--default", "store", "/nowhere")
    for uri in (None, "sqlite:///mlflow.db"):
        monkeypatch.setattr(store, "URI", uri)
        refused(f"MLFLOW_TRACKING_URI is {uri or 'not set'}.*: name one", check_places)
    monkeypatch.setattr(store, "URI", "http://127.0.0.1:9")
    refused("http://127.0.0.1:9 does not answer .*: start that server", check_places)
    monkeypatch.setenv("INNERPISSA_TRACKING", "off")
    check_places()


def test_without_ray_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    refused("ray is not installed: `pip install --editable '.\\[ray\\]'`", connect, 1, None)


def test_a_worker_leaves_alone_what_has_a_ref(repository, monkeypatch, tmp_path):
    commit = clean_commit()
    subprocess.run(["git", "update-ref", sweep_ray.ref(commit, "done"), commit], check=True)
    assert "lost" in run_there("done", [], commit, str(repository), {}, 1)
    assert finished(str(repository), commit) == ["done"]


def test_what_a_worker_started_ends_when_it_is_stopped(tmp_path):
    """As by `ray.cancel`, which interrupts the task."""
    code = (
        f"from pathlib import Path; import subprocess, sys, time\nPath('{tmp_path}/one').touch(); "
    )
    child = code.replace("one", "two") + "time.sleep(60)"
    code += f"print(subprocess.Popen([sys.executable, '-c', {child!r}]).pid, flush=True); time.sleep(60)"
    caller = (
        f"from pipeline.app.sweep_ray import call; import sys; call(sys.executable, '-c', {code!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", caller], cwd=ROOT, stdout=subprocess.PIPE)
    pid = int(process.stdout.readline())
    process.send_signal(2)
    assert process.wait(timeout=30) != 0
    wait_for(lambda: not psutil.pid_exists(pid))


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


@pytest.mark.slow
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
