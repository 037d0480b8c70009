"""MLflow's store: its experiment, the parent run of an execution, and how parameters enter it."""

import hashlib
import os
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import psutil

from pipeline.support.git import git
from pipeline.support.paths import ROOT
from pipeline.support.section import read_yaml

# Read before mlflow.set_tracking_uri(), which sets the variable itself.
URI = os.environ.get("MLFLOW_TRACKING_URI")
EXPERIMENT = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "innerpissa"
HOST = socket.gethostname()
# What MLflow refuses in a metric's name, such as the + of a coefficient.
UNNAMEABLE = re.compile(r"[^\w/. :-]")
SETTINGS = {
    # For a server that dies under way; MLflow itself would try for minutes.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def flatten(tree: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value of a tree of mappings and sections by its dotted key."""
    for key, value in tree.items():
        value = value.model_dump() if hasattr(value, "model_dump") else value
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def execution_key() -> str:
    """Return a key that all stages of one execution share, also when it is resumed or committed."""
    parts = os.environ.get("DVC_EXP_NAME", ""), Path("params.yaml").read_text(encoding="utf-8")
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def commit() -> str:
    """Return the commit that an experiment starts from, else the one that is checked out."""
    return os.environ.get("DVC_EXP_BASELINE_REV") or (git("rev-parse", "HEAD") or "").strip()


def check_server(uri: str) -> None:
    """Raise ConnectionError where nothing answers within seconds; any answer will do."""
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=5).close()
    except urllib.error.HTTPError:
        return
    except (OSError, ValueError, HTTPException) as error:
        raise ConnectionError(f"{uri} does not answer ({error})") from None


def execution() -> str | None:
    """Return what stands for this run of DVC, or of `repro`, and its store; None without one."""
    with suppress(psutil.Error):
        for process in psutil.Process().parents():
            if {"dvc", "repro"} & {Path(word).name for word in process.cmdline()[:4]}:
                return f"{URI} {execution_key()} {process.pid} {process.create_time()}"
    return None


def address(uri: str) -> str:
    """Return a store's address in full: what is relative in it begins in the user's checkout.

    A folder that exists as it is written is taken so, also where its name holds ? or %.
    """
    from sqlalchemy import make_url

    scheme, sign, path = uri.partition(":///")
    if not (sign and scheme.startswith("sqlite")) or path.startswith((":memory:", "file:")):
        bare = uri.removeprefix("file:")
        relative = ":" not in bare and not bare.startswith(("/", "databricks"))
        return (ROOT / bare).as_uri() if relative else uri
    folder, slash, last = path.rpartition("/")
    name, mark, query = last.partition("?")
    place = ROOT / (folder + slash)
    place = place if place.is_dir() else ROOT / unquote(folder + slash)
    database = str(place / unquote(name))
    if make_url(f"sqlite:///{database}").database != database:
        database = quote(database, safe="")  # MLflow would make folders of a path with slashes
    return f"{scheme}:///{database}{mark}{query}"


def connect():
    """Return a client of MLFLOW_TRACKING_URI, or of the checkout's own sqlite store."""
    if URI and URI.startswith("http"):
        check_server(URI)
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import mlflow

    database, new = ROOT / "mlflow.db", ROOT / "mlflow.db.new"
    if not URI and not database.exists():
        # A store whose first migration was interrupted never opens again, so it is made aside.
        new.unlink(missing_ok=True)
        mlflow.MlflowClient(address(f"sqlite:///{new.name}"))
        new.replace(database)
    mlflow.set_tracking_uri(address(URI or f"sqlite:///{database.name}"))
    return mlflow.MlflowClient()


def experiment_id(client) -> str:
    if experiment := client.get_experiment_by_name(EXPERIMENT):
        return experiment.experiment_id
    # Without a location, artifacts would go to ./mlruns of whichever workspace logs first.
    own = not URI or URI.startswith(("sqlite", "postgresql", "mysql", "mssql"))
    location = (ROOT / "mlartifacts").as_uri() if own else None
    tags = {"mlflow.experimentKind": "custom_model_development"}
    return client.create_experiment(EXPERIMENT, location, tags=tags)


def as_metrics(points: list[tuple[int, dict[str, float]]]) -> list[Any]:
    """Return (step, name -> value) as MLflow's own, under names that it takes."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [
        Metric(UNNAMEABLE.sub("", name), float(value), now, step)
        for step, metrics in points
        for name, value in metrics.items()
    ]


def log_params(client, run_id: str, params: dict) -> None:
    from mlflow.entities import Param

    client.log_batch(run_id, params=[Param(key, str(value)) for key, value in flatten(params)])


def process_tags() -> dict[str, str]:
    return {"stage.host": HOST, "stage.pid": str(os.getpid())}


def close_dead_runs(client, experiment: str) -> None:
    """Mark as killed what a process of this machine left running when it died."""
    query = f"attributes.status = 'RUNNING' and tags.`stage.host` = '{HOST}'"
    for run in client.search_runs([experiment], query):
        if psutil.pid_exists(int(run.data.tags["stage.pid"])):
            continue
        # It may have ended well since the search: a process closes its runs before it goes.
        if client.get_run(run.info.run_id).info.status == "RUNNING":
            client.set_terminated(run.info.run_id, "KILLED")


def parent_run(client, experiment: str) -> str:
    """Return the run of this execution: an unfinished one goes on, a complete one is left alone."""
    key = execution_key()
    query = f"tags.`pipeline.key` = '{key}' and tags.`pipeline.complete` = 'false'"
    if runs := client.search_runs([experiment], query, max_results=1):
        run_id = runs[0].info.run_id
        client.update_run(run_id, "RUNNING")
        for name, value in process_tags().items():
            client.set_tag(run_id, name, value)
        return run_id
    params, revision = read_yaml("params.yaml"), commit()
    tags = process_tags() | {name: str(params[name]) for name in ("model", "behaviour", "evalset")}
    tags |= {
        "kind": "pipeline",
        "pipeline.key": key,
        "pipeline.complete": "false",
        "synthetic": str("reference" in (params["model"], params["evalset"])).lower(),
        "commit": revision[:10],
        # MLflow shows its own tag of the commit only beside a source.
        "mlflow.source.git.commit": revision,
        "mlflow.source.name": "dvc.yaml",
    }
    name = os.environ.get("DVC_EXP_NAME") or time.strftime("repro-%Y%m%d-%H%M%S")
    run_id = client.create_run(experiment, run_name=name, tags=tags).info.run_id
    log_params(client, run_id, params)
    return run_id
