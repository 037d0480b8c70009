"""Cells side by side: each after those it needs, nothing after a failure; in a real project the same bytes as serially."""

import hashlib
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from ruamel.yaml import YAML

from pipeline.app import repro
from pipeline.app.repro import Runner, default_jobs
from pipeline.study.params import load_params
from pipeline.support.errors import InputError
from tests.conftest import ROOT
from tests.project import RUNNING, environment, make_project, quick

GRAPH = {"a": set(), "b": {"a"}, "c": {"a"}, "d": {"b", "c"}, "e": set(), "f": {"e"}}


class Fake(Runner):
    """Notes which cells run, and how many at once at most."""

    def __init__(self, jobs: int, broken: str = ""):
        super().__init__(jobs)
        self.broken, self.order, self.now, self.most = broken, [], 0, 0
        self.lock = threading.Lock()

    def cell(self, name: str) -> int:
        with self.lock:
            self.order.append(name)
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.05)
        with self.lock:
            self.now -= 1
        return int(name == self.broken)


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(repro, "gpus", list)


def test_each_cell_runs_after_those_it_needs_and_two_at_once():
    runner = Fake(2)
    runner.run(GRAPH, {"a", "e"})
    assert sorted(runner.order) == sorted(GRAPH)
    assert all(runner.order.index(need) < runner.order.index(name) for name in GRAPH for need in GRAPH[name])  # fmt: skip
    assert runner.most == 2


def test_what_is_up_to_date_is_left_alone():
    runner = Fake(2)
    runner.run(GRAPH, {"c"})
    assert runner.order == ["c", "d"]


def test_what_waits_only_for_what_is_up_to_date_starts_at_once():
    runner = Fake(2)
    runner.run({"a": set(), "b": {"a"}, "c": {"b"}, "x": set()}, {"x", "c"})
    assert sorted(runner.order) == ["c", "x"]
    assert runner.most == 2


def test_random_directions_begin_first_as_they_take_longest():
    runner = Fake(1)
    graph = {"pairs": set(), "train@lora-0": {"pairs"}, "baselines@random": {"pairs"}}
    runner.run(graph, {"pairs"})
    assert runner.order == ["pairs", "baselines@random", "train@lora-0"]


def test_after_a_failure_nothing_more_starts():
    runner = Fake(1, broken="a")
    with pytest.raises(InputError, match="a failed"):
        runner.run(GRAPH, {"a"})
    assert runner.order == ["a"]


def test_a_cell_whose_turn_comes_after_the_stop_is_not_started(monkeypatch, tmp_path):
    """A place's thread may be about to start its cell when the run is stopped."""
    monkeypatch.setattr(repro, "DVC", [sys.executable, "-c", f"open({str(tmp_path / 'ran')!r}, 'w')"])  # fmt: skip
    runner = Runner(1)
    assert runner.cell("a") == 0
    (tmp_path / "ran").unlink()
    runner.stop()
    assert runner.cell("b") == 1
    assert not (tmp_path / "ran").exists()


def test_the_stop_ends_a_cell_and_what_it_started(monkeypatch, tmp_path):
    child = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"  # fmt: skip
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    monkeypatch.setattr(repro, "DVC", [sys.executable, "-c", parent])
    runner = Runner(1)
    thread = threading.Thread(target=runner.cell, args=("a",))
    thread.start()
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.05)
    started = psutil.Process(int((tmp_path / "pid").read_text()))
    runner.stop()
    thread.join(timeout=60)
    assert not thread.is_alive()
    psutil.wait_procs([started], timeout=60)
    assert not started.is_running()


def test_the_default_is_cores_for_a_small_model_and_one_cell_for_a_large_one(monkeypatch):
    params = load_params()
    monkeypatch.setattr(repro, "cores", lambda: 3)
    monkeypatch.setattr(repro.psutil, "virtual_memory", lambda: type("M", (), {"available": 1e12}))
    monkeypatch.setattr(repro, "read_json", lambda *_: {"hidden_size": 192})
    assert default_jobs(params) == 3
    assert default_jobs(params.model_copy(update={"processes": 2})) == 1
    assert default_jobs(params.model_copy(update={"device": "cuda:1"})) == 1
    monkeypatch.setattr(repro, "read_json", lambda *_: {"hidden_size": 2048})
    assert default_jobs(params) == 1
    monkeypatch.setattr(repro, "gpus", lambda: ["0", "1"])
    assert default_jobs(params) == 2


def test_each_place_has_its_gpu(monkeypatch):
    monkeypatch.setattr(repro, "gpus", lambda: ["4", "7"])
    runner = Runner(3)
    assert [runner.environment(place)["CUDA_VISIBLE_DEVICES"] for place in range(3)] == ["4", "7", "4"]  # fmt: skip


def results(folder: Path) -> dict[str, str]:
    """Every result's hash."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for part in ("models/adapters", "data/scores", "reports")
        for path in sorted((folder / part).rglob("*"))
        if path.is_file()
    }


def locked(folder: Path) -> dict:
    return YAML(typ="safe").load(folder / "dvc.lock")["stages"]


@pytest.mark.slow
def test_side_by_side_gives_the_bytes_of_a_serial_run_also_when_stopped(tmp_path):
    """The one that runs side by side is stopped at its first training, and goes on."""
    studies = [["innerpissa", "lora"], ["mean_diff", "prompting"]]
    serial, parallel = (make_project(tmp_path / name / "project", *studies) for name in ("one", "two"))  # fmt: skip
    command = [sys.executable, "-m", "pipeline", "repro", "--jobs", "2"]
    with quick(tmp_path) as path:
        assert serial.run("dvc", "repro", PATH=path)
        process = subprocess.Popen(
            command, cwd=parallel.folder, env=environment() | {"PATH": path},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        stopped = next(line for line in process.stdout if line.startswith("train@"))
        process.send_signal(signal.SIGTERM)
        process.communicate()
        assert process.returncode
        said = parallel.run(*command, PATH=path)
        assert stopped in said and "evaluate_baselines@mean_diff | " in said
        assert RUNNING.findall(parallel.run(*command, PATH=path)) == []
        assert parallel.repro(PATH=path) == []
    assert results(parallel.folder) == results(serial.folder)
    assert locked(parallel.folder) == locked(serial.folder)
