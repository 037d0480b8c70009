"""A window on the pipeline: one MLflow run per execution, with one child run per stage.

Nothing reads MLflow back. Results stay as they are if tracking fails or is off
(INNERPISSA_TRACKING=off).
"""

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

from pipeline.study import store
from pipeline.study.declared import Declared
from pipeline.support.files import read_json, write_json
from pipeline.support.paths import ROOT
from pipeline.support.usage import Usage

# Of several processes that share a stage, only the first tracks.
IS_MAIN = os.environ.get("RANK", "0") == "0"
# Inside a stage's output: what to show when DVC takes that output from its cache.
RECORD = "stage.json"
LONGEST_NOTE = 8000  # the store takes no longer one

Arguments = ParamSpec("Arguments")
Call = Callable[Concatenate["Run", Arguments], None]


def safely(method: Call[Arguments]) -> Call[Arguments]:
    """Leave a method out where nothing is tracked; if the store fails, say so and stop tracking."""

    def call(run: "Run", *args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        if not run.on:
            return
        try:
            method(run, *args, **kwargs)
        except Exception as error:  # in whatever way
            said = f"{type(error).__name__}: {error}"
            print(f"tracking failed and is left out from here: {said}", flush=True)
            run.on = False

    return call


class Run:
    """What a stage may say about itself."""

    client: Any
    experiment = parent = child = study = ""

    def __init__(self, stage: str):
        self.stage = stage
        self.metrics: dict[str, float] = {}
        self.usage = Usage()
        self.on = IS_MAIN and os.environ.get("INNERPISSA_TRACKING") != "off"

    @safely
    def open(self, params: Declared) -> None:
        from filelock import FileLock

        lock, dead = ROOT / ".dvc/tmp/mlflow.lock", ROOT / ".dvc/tmp/mlflow.dead"
        lock.parent.mkdir(parents=True, exist_ok=True)
        # Two first clients at once would both migrate the store and break it.
        with FileLock(lock):
            execution = store.execution() if store.URI else None
            if execution and dead.exists() and dead.read_text(encoding="utf-8") == execution:
                print(f"tracking is left out: {store.URI} did not answer in this execution")
                self.on = False
                return
            try:
                self.client = store.connect()
            except ConnectionError:
                dead.write_text(execution or "", encoding="utf-8")
                raise
            self.experiment = store.experiment_id(self.client)
            store.close_dead_runs(self.client, self.experiment)
            self.parent = store.parent_run(self.client, self.experiment)
        self.study = self.client.get_run(self.parent).info.run_name
        self.child = self.create(self.stage, store.process_tags())
        store.log_params(self.client, self.child, params)

    def create(self, stage: str, tags: dict[str, str]) -> str:
        """Create a stage's run; its study's name tells equal stages of several studies apart."""
        own = {"mlflow.parentRunId": self.parent, "study": self.study}
        kind = {"kind": "stage", "stage": stage.partition("@")[0]}
        run = self.client.create_run(self.experiment, run_name=stage, tags=own | kind | tags)
        return run.info.run_id

    def log(self, metrics: dict[str, float], step: int = 0) -> None:
        self.metrics |= metrics
        self.curve([(step, metrics)])

    @safely
    def curve(self, points: list[tuple[int, dict[str, float]]], parent: bool = False) -> None:
        """Log metrics by step."""
        self.client.log_batch(self.parent if parent else self.child, store.as_metrics(points))

    @safely
    def artifact(self, path: Path, folder: str | None = None, parent: bool = False) -> None:
        log = self.client.log_artifacts if path.is_dir() else self.client.log_artifact
        log(self.parent if parent else self.child, str(path), folder)

    @safely
    def describe(self, text: str) -> None:
        """Write the parent run's description, as Markdown."""
        self.client.set_tag(self.parent, "mlflow.note.content", text[:LONGEST_NOTE])

    @safely
    def save_view(self, name: str, state: dict[str, Any]) -> None:
        """Save (or renew) a view of the experiment's runs, as `Views` on MLflow's page does."""
        now = int(time.time() * 1000)
        view = {"name": name, "createdAt": now, "updatedAt": now, "state": json.dumps(state)}
        tag = f"mlflow.sharedViewState.{name.lower()}"
        self.client.set_experiment_tag(self.experiment, tag, json.dumps(view))

    @safely
    def close(self, status: str) -> None:
        self.client.set_terminated(self.child, status)
        self.client.set_terminated(self.parent, status)

    @safely
    def complete(self, records: list[dict[str, Any]]) -> None:
        """Finish the execution; add the stages that DVC took from its cache, so that all show."""
        query = f"tags.`mlflow.parentRunId` = '{self.parent}'"
        shown = {run.info.run_name for run in self.client.search_runs([self.experiment], query)}
        for record in records:
            if record["stage"] not in shown:
                child = self.create(record["stage"], {"cached": "true"})
                self.client.log_batch(child, store.as_metrics([(0, record["metrics"])]))
                self.client.set_terminated(child)
        self.client.set_tag(self.parent, "pipeline.complete", "true")

    def record(self, folder: Path) -> None:
        """Leave the metrics in the stage's output; no times or ids, so equal results hash alike."""
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
