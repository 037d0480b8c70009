"""Two experiments at once leave git, DVC and MLflow intact; a queue whose worker dies goes on; a sweep is noted as a grid."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.study.params import load_params
from tests.conftest import ROOT
from tests.project import RUNNING, Project, environment, make_project, quick

pytestmark = pytest.mark.slow

STAGES = ["code", "model", "pairs"]
# An experiment may find in the cache what another one has just made.
DONE = re.compile(r"(?:Running stage|Stage) '(?!sources')(\w+)'(?::| is cached)")


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Iterator[str]:
    with quick(tmp_path_factory.mktemp("quick")) as found:
        yield found


@pytest.fixture
def project(tmp_path) -> Iterator[Project]:
    project = make_project(tmp_path / "project", ["innerpissa"], ["mean_diff"])
    yield project
    cut_power(project)


def cut_power(project: Project) -> None:
    """Kill every process that works in the project's folders: workers, dvc, stages."""

    def inside(process: psutil.Process) -> bool:
        try:
            return Path(process.cwd()).is_relative_to(project.folder)
        except (psutil.Error, OSError):
            return False

    while found := [process for process in psutil.process_iter() if inside(process)]:
        for process in found:
            process.kill()
        psutil.wait_procs(found, timeout=10)


def start_queue(project: Project, **extra: str) -> None:
    """Start one worker, which would keep a pipe open."""
    command = ["dvc", "queue", "start", "--jobs", "1"]
    subprocess.run(
        command,
        cwd=project.folder,
        env=environment() | extra,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )


def queue_status(project: Project) -> list[tuple[str, str]]:
    """Return each task's name and state."""
    rows = [line.split() for line in project.run("dvc", "queue", "status").splitlines()]
    return sorted(
        (row[1], row[-1])
        for row in rows
        if row and row[-1] in ("Queued", "Running", "Success", "Failed")
    )


def wait_for(condition, seconds: float = 900) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.5)


def at_once(project: Project, *commands: list[str], meeting: Path, **extra: str) -> list[str]:
    """Run commands that meet in a folder, and return what each said.

    The next one starts when the last has come there: DVC would note both in one list until then.
    """
    given = {
        "cwd": project.folder,
        "env": environment() | extra | {"MEETING": str(meeting)},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
    }
    processes = []
    for number, command in enumerate(commands):
        wait_for(lambda count=number: len(list(meeting.glob("*"))) == count)
        processes.append(subprocess.Popen(command, text=True, **given))
    said = [process.communicate(timeout=900)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), said
    return said


def shown(project: Project) -> dict[str, dict]:
    """Return what `dvc exp show` knows of each experiment by its name."""
    [_, baseline] = json.loads(project.run("dvc", "exp", "show", "--json"))
    return {row["name"]: row["revs"][0]["data"] for row in baseline["experiments"] or []}


def test_two_experiments_at_once_leave_git_dvc_and_mlflow_intact(project, path, tmp_path):
    """Both wait for each other before their first stage, so that they also are the first two users of the store."""
    pairs = {"one": 16, "two": 24}
    run = ["dvc", "--wait-for-lock", "exp", "run", "--temp"]
    commands = [
        [*run, "-n", name, "-S", f"pairs.max_pairs={n}", "pairs"] for name, n in pairs.items()
    ]
    said = at_once(project, *commands, meeting=tmp_path / "meeting", PATH=path, MEET="code 2")
    for text in said:
        assert DONE.findall(text) == STAGES, text
        assert "tracking failed" not in text, text

    assert project.run("git", "fsck", "--no-dangling") == ""
    refs = project.run("git", "for-each-ref", "--format=%(refname)").split()
    assert sorted(ref.rpartition("/")[2] for ref in refs if ref.startswith("refs/exps/")) == [
        "one",
        "two",
    ]
    assert project.run("git", "status", "--porcelain") == ""
    found = shown(project)
    assert {
        name: row["params"]["params.yaml"]["data"]["pairs"]["max_pairs"]
        for name, row in found.items()
    } == pairs
    assert len({row["outs"]["data/pairs"]["hash"] for row in found.values()}) == 2

    parents = {run.info.run_name: run for run in project.parents()}
    assert {name: int(run.data.params["pairs.max_pairs"]) for name, run in parents.items()} == pairs
    for run in parents.values():
        children = project.children(run)
        assert set(children) == set(STAGES)
        assert {child.info.status for child in (run, *children.values())} == {"FINISHED"}


def test_a_queue_goes_on_after_its_worker_was_killed(project, path, tmp_path):
    """As docs/experiments.md says: the killed task stands as Running, the next one runs, and a second note of the first ends well."""
    note = ["dvc", "exp", "run", "--queue"]
    for name, n in {"first": 16, "second": 24}.items():
        project.run(*note, "-n", name, "-S", f"pairs.max_pairs={n}", "pairs")
    meeting = tmp_path / "meeting"
    start_queue(project, PATH=path, MEET="pairs 2", MEETING=str(meeting))
    wait_for(lambda: meeting.exists() and any(meeting.iterdir()))
    cut_power(project)
    assert queue_status(project) == [("first", "Running"), ("second", "Queued")]

    start_queue(project, PATH=path)
    wait_for(lambda: ("second", "Success") in queue_status(project))
    assert ("first", "Running") in queue_status(project)
    project.run("dvc", "queue", "kill", "-f", "first")
    assert ("first", "Failed") in queue_status(project)
    project.run(*note, "-n", "first", "-S", "pairs.max_pairs=16", "pairs")
    start_queue(project, PATH=path)
    wait_for(lambda: ("first", "Success") in queue_status(project))
    assert RUNNING.findall(project.run("dvc", "queue", "logs", "first")) == [
        "pairs"
    ]  # the model had been finished
    assert project.run("git", "fsck", "--no-dangling") == ""
    assert set(shown(project)) == {"first", "second"}
    parents = {run.info.run_name: run for run in project.parents()}
    assert {name: run.info.status for name, run in parents.items()} == {
        "first": "FINISHED",
        "second": "FINISHED",
    }
    assert len(project.parents()) == 2
    assert {
        name: run.info.status for name, run in project.children(parents["first"]).items()
    } == dict.fromkeys(STAGES, "FINISHED")


def test_a_sweep_of_quantisation_is_noted_as_three_tasks(project, tmp_path):
    """As docs/experiments.md spells it, read by the pipeline's own params."""
    table = (ROOT / "docs/experiments.md").read_text()
    [override] = re.findall(r"`-S (quantisation=[^`]*)`", table)
    project.run("dvc", "exp", "run", "--queue", "-n", "quant", "-S", override)
    found = {}
    for name, task in shown(project).items():
        (tmp_path / "params.yaml").write_text(
            project.run("git", "show", f"{task['rev']}:params.yaml")
        )
        found[name] = load_params(tmp_path / "params.yaml").quantisation
    assert found == {"quant-1": "none", "quant-2": "8bit", "quant-3": "4bit"}
    assert sorted(queue_status(project)) == [(name, "Queued") for name in sorted(found)]
