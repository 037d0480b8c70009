"""A window on the pipeline: MLflow shows one parent run per execution and one child run per stage.

Nothing reads MLflow back. Tracking that is off (INNERPISSA_TRACKING=off) or fails never changes or
stops a result.
"""

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.study.declared import Declared
from pipeline.support.files import alive, read_json, write_json
from pipeline.support.paths import ROOT
from pipeline.support.section import read_yaml
from pipeline.support.usage import Usage

# Read before mlflow.set_tracking_uri(), which sets the variable itself.
URI = os.environ.get("MLFLOW_TRACKING_URI")
EXPERIMENT = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "innerpissa"
HOST = socket.gethostname()
IS_MAIN = (
    os.environ.get("RANK", "0") == "0"
)  # of several processes that share a stage, only the first tracks
UNNAMEABLE = re.compile(
    r"[^\w/. :-]"
)  # what MLflow refuses in a metric's name, such as the + of a coefficient
RECORD = (
    "stage.json"  # inside a stage's output: what to show when DVC takes that output from its cache
)


def flatten(tree: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        value = value.model_dump() if hasattr(value, "model_dump") else value
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def execution_key() -> str:
    """Return a key that all stages of one execution share, also when it is resumed; a git commit
    does not change it.
    """
    parts = os.environ.get("DVC_EXP_NAME", ""), Path("params.yaml").read_text()
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def commit() -> str:
    if found := os.environ.get("DVC_EXP_BASELINE_REV"):
        return found
    return subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()


def connect():
    """Return a client of MLFLOW_TRACKING_URI, or of the checkout's own sqlite store."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow

    database, new = ROOT / "mlflow.db", ROOT / "mlflow.db.new"
    if not URI and not database.exists():
        # A store whose first migration was interrupted can never be opened again, so it is made
        # aside.
        new.unlink(missing_ok=True)
        mlflow.MlflowClient(f"sqlite:///{new}")
        new.replace(database)
    mlflow.set_tracking_uri(URI or f"sqlite:///{database}")
    return mlflow.MlflowClient()


def experiment_id(client) -> str:
    if found := client.get_experiment_by_name(EXPERIMENT):
        return found.experiment_id
    # Without a location, artifacts would go to ./mlruns of whichever workspace logs first.
    location = None if URI else (ROOT / "mlartifacts").as_uri()
    return client.create_experiment(
        EXPERIMENT, location, tags={"mlflow.experimentKind": "custom_model_development"}
    )


def as_metrics(points: list[tuple[int, dict[str, float]]]) -> list[Any]:
    """Return (step, name -> value) as MLflow's own, under names that it takes."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [
        Metric(UNNAMEABLE.sub("", k), float(v), now, step)
        for step, metrics in points
        for k, v in metrics.items()
    ]


def source_tags() -> dict[str, str]:
    """Return the commit as a tag that one can see, and as MLflow's own, which it shows beside a
    source alone.
    """
    revision = commit()
    return {
        "commit": revision[:10],
        "mlflow.source.git.commit": revision,
        "mlflow.source.name": "dvc.yaml",
    }


def process_tags() -> dict[str, str]:
    return {"stage.host": HOST, "stage.pid": str(os.getpid())}


def close_dead_runs(client, experiment: str) -> None:
    """Mark as killed what a process of this machine left running when it died."""
    query = f"attributes.status = 'RUNNING' and tags.`stage.host` = '{HOST}'"
    for run in client.search_runs([experiment], query):
        if not alive(int(run.data.tags["stage.pid"])):
            client.set_terminated(run.info.run_id, "KILLED")


def parent_run(client, experiment: str) -> str:
    """Return the run of this execution: an unfinished one goes on, a complete one is left alone."""
    key = execution_key()
    query = f"tags.`pipeline.key` = '{key}' and tags.`pipeline.complete` = 'false'"
    if found := client.search_runs([experiment], query, max_results=1):
        run_id = found[0].info.run_id
        client.update_run(run_id, "RUNNING")
        for tag in process_tags().items():
            client.set_tag(run_id, *tag)
        return run_id
    params = read_yaml("params.yaml")
    tags = (
        {"kind": "pipeline", "pipeline.key": key, "pipeline.complete": "false"}
        | source_tags()
        | process_tags()
    )
    tags |= {key: str(params[key]) for key in ("model", "behaviour", "evalset")}
    tags["synthetic"] = str("reference" in (params["model"], params["evalset"])).lower()
    name = os.environ.get("DVC_EXP_NAME") or time.strftime("repro-%Y%m%d-%H%M%S")
    run_id = client.create_run(experiment, run_name=name, tags=tags).info.run_id
    log_params(client, run_id, params)
    return run_id


def log_params(client, run_id: str, params: dict) -> None:
    from mlflow.entities import Param

    found = [Param(key, str(value)) for key, value in flatten(params)]
    for start in range(0, len(found), 100):  # the store takes no more at once
        client.log_batch(run_id, params=found[start : start + 100])


class Run:
    """What a stage may say about itself. Every call is safe: a failure of the store is printed and
    forgotten.
    """

    def __init__(self, stage: str):
        self.stage = stage
        self.metrics: dict[str, float] = {}
        self.usage = Usage()
        self.client: Any = None
        self.experiment = self.parent = self.child = self.study = ""

    def tags(self, stage: str) -> dict[str, str]:
        """Return the tags of a stage's run; its study's name tells equal stages of several studies
        apart.
        """
        return {
            "mlflow.parentRunId": self.parent,
            "kind": "stage",
            "stage": stage.partition("@")[0],
            "study": self.study,
        }

    def open(self, params: Declared) -> None:
        if os.environ.get("INNERPISSA_TRACKING", "on") == "off" or not IS_MAIN:
            return
        from filelock import FileLock

        lock = ROOT / ".dvc" / "tmp" / "mlflow.lock"
        with self.safely():
            lock.parent.mkdir(parents=True, exist_ok=True)
            # Two first clients at once would both migrate the store and break it.
            with FileLock(lock):
                client = connect()
                self.experiment = experiment_id(client)
                close_dead_runs(client, self.experiment)
                self.parent = parent_run(client, self.experiment)
            self.study = client.get_run(self.parent).info.run_name
            found = client.create_run(
                self.experiment, run_name=self.stage, tags=self.tags(self.stage) | process_tags()
            )
            self.child, self.client = found.info.run_id, client
            log_params(client, self.child, params)

    @contextlib.contextmanager
    def safely(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the store may fail in any way, and must never stop a result
            print(f"tracking failed and is left out from here: {type(error).__name__}: {error}")
            self.client = None

    def log(self, metrics: dict[str, float], step: int = 0) -> None:
        self.metrics |= metrics
        self.curve([(step, metrics)])

    def curve(self, points: list[tuple[int, dict[str, float]]], parent: bool = False) -> None:
        """Log metrics by step, in batches."""
        if not self.client:
            return
        values = as_metrics(points)
        with self.safely():
            for start in range(0, len(values), 1000):
                self.client.log_batch(
                    self.parent if parent else self.child, values[start : start + 1000]
                )

    def artifact(self, path: Path, folder: str | None = None, parent: bool = False) -> None:
        if not self.client:
            return
        with self.safely():
            log = self.client.log_artifacts if path.is_dir() else self.client.log_artifact
            log(self.parent if parent else self.child, str(path), folder)

    def describe(self, text: str) -> None:
        """Write the parent run's description, as Markdown."""
        if self.client:
            with self.safely():
                self.client.set_tag(
                    self.parent, "mlflow.note.content", text[:8000]
                )  # the store takes no more

    def save_view(self, name: str, state: dict[str, Any]) -> None:
        """Save (or renew) a view of the experiment's runs, as the button `Views` of MLflow's page
        does.
        """
        if self.client:
            now = int(time.time() * 1000)
            view = {"name": name, "createdAt": now, "updatedAt": now, "state": json.dumps(state)}
            with self.safely():
                self.client.set_experiment_tag(
                    self.experiment, f"mlflow.sharedViewState.{name.lower()}", json.dumps(view)
                )

    def close(self, status: str) -> None:
        if self.client:
            with self.safely():
                self.client.set_terminated(self.child, status)
                self.client.set_terminated(self.parent, status)

    def complete(self, records: list[dict[str, Any]]) -> None:
        """Finish the execution: add the stages that DVC took from its cache, so that every parent
        shows the whole pipeline.
        """
        if not self.client:
            return
        with self.safely():
            query = f"tags.`mlflow.parentRunId` = '{self.parent}'"
            shown = {run.info.run_name for run in self.client.search_runs([self.experiment], query)}
            for record in records:
                if record["stage"] in shown:
                    continue
                tags = self.tags(record["stage"]) | {"cached": "true"}
                child = self.client.create_run(
                    self.experiment, run_name=record["stage"], tags=tags
                ).info.run_id
                self.client.log_batch(child, as_metrics([(0, record["metrics"])]))
                self.client.set_terminated(child)
            self.client.set_tag(self.parent, "pipeline.complete", "true")

    def record(self, folder: Path) -> None:
        """Leave the stage's metrics in its output: no times or ids, so that equal results have
        equal hashes.
        """
        write_json(folder / RECORD, {"stage": self.stage, "metrics": self.metrics})


def read_records(folders: list[Path]) -> list[dict[str, Any]]:
    return [read_json(folder / RECORD) for folder in folders if (folder / RECORD).exists()]


@contextlib.contextmanager
def tracked(stage: str, params: Declared) -> Iterator[Run]:
    """Run the body as one MLflow run."""
    run = Run(stage)
    run.open(params)
    signal.signal(signal.SIGTERM, lambda *_: exit(143))
    try:
        yield run
        run.curve([(0, run.usage.figures())])
        print(f"{stage}: {run.usage}")
    except BaseException as error:
        run.close("FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    run.close("FINISHED")
