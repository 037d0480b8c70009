"""A real project to run: a clone whose bundled model is a tiny random one, with a small study."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ruamel.yaml import YAML

from tests import quick_python
from tests.conftest import ROOT, make_tiny

BIN = Path(sys.executable).parent
RUNNING = re.compile(r"Running stage '(?!sources')([^']+)'")  # `sources` runs every time


def environment() -> dict[str, str]:
    """A user's environment: tracking on, a git identity, the tests' own Python first."""
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_", "INNERPISSA_"))
    }
    identity = {
        f"GIT_{who}_{what}": "test@example.org"
        for who in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    return (
        kept | identity | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    )


@contextmanager
def quick(root: Path) -> Iterator[str]:
    """Yield a PATH with the quick python first, while its server runs."""
    with tempfile.TemporaryDirectory() as short:  # a socket's address has little room
        quick_python.install(root / "bin", Path(short) / "s")
        server = subprocess.Popen(
            [sys.executable, quick_python.__file__, f"{short}/s"],
            env=environment() | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert server.stdout.readline() == "ready\n"
        try:
            yield f"{root / 'bin'}{os.pathsep}{environment()['PATH']}"
        finally:
            server.kill()
            server.wait()


class Project:
    def __init__(self, folder: Path):
        self.folder = folder

    def run(self, *command: str, code: int = 0, **extra: str) -> str:
        found = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, env=environment() | extra
        )
        assert found.returncode == code, found.stdout[-3000:] + found.stderr[-3000:]
        return found.stdout + found.stderr

    def repro(self, **extra: str) -> list[str]:
        return RUNNING.findall(self.run("dvc", "repro", **extra))

    def parents(self) -> list:
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{self.folder / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("innerpissa")
        return client.search_runs(
            [experiment.experiment_id], "tags.kind = 'pipeline'", order_by=["attributes.start_time"]
        )

    def children(self, parent) -> dict[str, object]:
        """Return an execution's stages by name, of several with one name the last."""
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{self.folder / 'mlflow.db'}")
        order = ["attributes.start_time"]
        query = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
        return {
            run.info.run_name: run
            for run in client.search_runs([parent.info.experiment_id], query, order_by=order)
        }


def shrink(file: Path, methods: list[str], baselines: list[str]) -> None:
    """Make params.yaml a study of seconds."""
    yaml = YAML()
    params = yaml.load(file)
    params.update(
        methods=methods, seeds=[0], baselines=baselines, coefficients=[-1.0, 0.0, 1.0], rank=16
    )
    params["pairs"]["max_pairs"], params["training"]["epochs"] = 24, 2
    params["statistics"].update(bootstrap=100, min_items=2)
    params["composition"]["behaviours"] = ["honesty", "kindness"]
    params["evalsets"]["reference"].update(target_dilemmas=6, other_dilemmas=1)
    yaml.dump(params, file)


def make_project(folder: Path, methods: list[str], baselines: list[str]) -> Project:
    """Clone the working tree without its results, shrink the study and commit it."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith(
            ("models/", "reports/", "tests/", "dvc.lock")
        ):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    make_tiny(folder / "models/reference")
    shrink(folder / "params.yaml", methods, baselines)
    project = Project(folder)
    project.run("git", "init", "-q")
    project.run("git", "add", "-A")
    date = (
        "2026-01-01T00:00:00Z"  # so that two projects alike are one commit, which the report names
    )
    project.run("git", "commit", "-qm", "start", GIT_AUTHOR_DATE=date, GIT_COMMITTER_DATE=date)
    return project
