"""MLflow as a window: a fresh store survives several first users, a killed stage is shown as killed, off means off."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from pipeline.study.store import close_dead_runs
from pipeline.support.usage import Usage

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
STAGE = """
import sys, time
from pipeline.study.declared import Declared
from pipeline.study.tracking import tracked
with tracked(sys.argv[1], Declared(rank=4)) as run:
    run.log({"figure": 1.5, "pair_at_-1_+0": 2.5})
    print("open", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path


def start(folder: Path, name: str, seconds: float, **extra: str) -> subprocess.Popen:
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_", "INNERPISSA_"))
    }
    environment = kept | {"DVC_ROOT": str(folder), "PYTHONPATH": str(ROOT)} | extra
    return subprocess.Popen(
        [sys.executable, "-c", STAGE, name, str(seconds)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def runs(folder: Path, query: str = "") -> dict[str, object]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("innerpissa")
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id], query)}


def test_several_first_users_share_one_fresh_store(folder):
    processes = [start(folder, f"stage@{i}", 0) for i in range(3)]
    for process in processes:
        said = process.communicate(timeout=120)[0]
        assert "tracking failed" not in said
        assert re.search(r"^stage@\d: \d+\.\d s, peak memory [\d,]+ MB$", said, re.MULTILINE)
        assert process.returncode == 0
    found = runs(folder, "tags.kind = 'stage'")
    assert sorted(found) == ["stage@0", "stage@1", "stage@2"]
    assert all(
        run.info.status == "FINISHED" and run.data.metrics["figure"] == 1.5
        for run in found.values()
    )
    for run in found.values():
        assert set(run.data.metrics) == {
            "figure",
            "pair_at_-1_0",
            "seconds",
            "peak_memory_mb",
        }  # MLflow knows no plus
    assert len(runs(folder, "tags.kind = 'pipeline'")) == 1
    assert not (folder / "mlflow.db.new").exists()


def test_a_stage_that_is_told_to_stop_or_dies_is_shown_as_killed(folder):
    stopped = start(folder, "told", 60)
    assert stopped.stdout.readline() == "open\n"
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait(timeout=60) == 143
    assert runs(folder)["told"].info.status == "KILLED"
    dead = start(folder, "dead", 60)
    assert dead.stdout.readline() == "open\n"
    dead.kill()
    dead.wait()
    assert runs(folder)["dead"].info.status == "RUNNING"
    assert start(folder, "next", 0).wait(timeout=60) == 0
    assert runs(folder)["dead"].info.status == "KILLED"
    assert runs(folder)["next"].info.status == "FINISHED"


def test_off_leaves_no_store(folder):
    assert start(folder, "quiet", 0, INNERPISSA_TRACKING="off").wait(timeout=60) == 0
    assert not (folder / "mlflow.db").exists()


def test_usage_counts_what_enters_the_model_and_measures_this_process(model):
    usage = Usage()
    assert set(usage.figures()) == {"seconds", "peak_memory_mb"}
    usage.watch(model)
    for rows in (2, 3):
        model(torch.zeros(rows, 5, dtype=torch.long))
    found = usage.figures()
    assert found["tokens"] == 25
    assert found["tokens_per_second"] == pytest.approx(25 / found["seconds"])
    assert (
        0.9 * psutil.Process().memory_info().rss
        < found["peak_memory_mb"] * 1e6
        < psutil.virtual_memory().total
    )
    assert re.fullmatch(
        r"\d+\.\d s, peak memory [\d,]+ MB, [\d,]+ tokens/s",
        str(usage).replace(", peak GPU memory 0 MB", ""),
    )


def test_a_run_that_ends_well_during_the_search_is_not_called_killed():
    """The search still sees it as running; when its process is looked for, it is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()

    def run(status: str) -> SimpleNamespace:
        info = SimpleNamespace(run_id="a", status=status)
        tags = {"stage.pid": str(process.pid)}
        return SimpleNamespace(info=info, data=SimpleNamespace(tags=tags))

    for now, expected in {"FINISHED": [], "RUNNING": [("a", "KILLED")]}.items():
        marked: list[tuple[str, str]] = []
        client = SimpleNamespace(
            search_runs=lambda *_: [run("RUNNING")],
            get_run=lambda _, now=now: run(now),
            set_terminated=lambda *mark, marked=marked: marked.append(mark),
        )
        close_dead_runs(client, "0")
        assert marked == expected
