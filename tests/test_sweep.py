"""A sweep is the product of its overrides; what cannot run or would be lost is refused before anything starts."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pipeline.app import sweep, sweep_ray
from pipeline.app.sweep import clean_commit, expand, finished, main
from pipeline.app.sweep_ray import check_places, connect, run_there
from pipeline.study import store
from tests.conftest import ROOT
from tests.project import Project, environment
from tests.refusals import refused
from tests.test_queue import wait_for


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
