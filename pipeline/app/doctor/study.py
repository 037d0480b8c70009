"""The study: parameters, behaviours, suffixes, the model's files, the tracking store."""

import json
import os
import sqlite3
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path

from pipeline.app.doctor import Finding
from pipeline.app.doctor.workspace import writable
from pipeline.study.behaviours import load_behaviour
from pipeline.study.params import load_params
from pipeline.support.paths import SUFFIXES, behaviour_file


def parameters() -> Finding:
    params = load_params()
    cells = len(params.methods) * len(params.seeds) + len(params.baselines)
    return Finding(
        "params.yaml",
        "ok",
        f"valid: {params.model}, {params.behaviour} on {params.evalset}, {cells} cells",
    )


def behaviours() -> Finding:
    params = load_params()
    names = list(dict.fromkeys([params.behaviour, *params.composition.behaviours]))
    for name in names:
        load_behaviour(behaviour_file(name))
    if params.evalset not in load_behaviour(behaviour_file(params.behaviour)).targets:
        said = f"{behaviour_file(params.behaviour)} has no target for {params.evalset!r}"
        return Finding("behaviours", "wrong", said, "add one under targets")
    return Finding("behaviours", "ok", ", ".join(names))


def suffixes() -> Finding:
    files = sorted(SUFFIXES.glob("*.json"))
    if not files:
        return Finding(
            "suffixes", "wrong", f"{SUFFIXES} holds no *.json", f"`git checkout {SUFFIXES}`"
        )
    for file in files:
        try:
            json.loads(file.read_text())
        except ValueError as error:
            return Finding(
                "suffixes",
                "wrong",
                f"{file} is not valid JSON ({error})",
                f"correct it, or `git checkout {file}`",
            )
    return Finding("suffixes", "ok", f"{len(files)} files")


def model() -> Finding:
    params = load_params()
    entry = params.models[params.model]
    return (
        local_model(Path(entry.source))
        if Path(entry.source).is_dir()
        else hub_model(entry.source, entry.revision)
    )


def local_model(folder: Path) -> Finding:
    from safetensors import SafetensorError, safe_open

    remedy = f"copy the model again; the bundled one: `git checkout {folder}`"
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).exists():
            return Finding("model", "wrong", f"{folder} holds no {name}", remedy)
    files = sorted(folder.glob("*.safetensors"))
    shards = folder / "model.safetensors.index.json"
    named = set(json.loads(shards.read_text())["weight_map"].values()) if shards.exists() else set()
    if missing := sorted(named - {file.name for file in files}) or (
        [] if files else ["*.safetensors"]
    ):
        return Finding("model", "wrong", f"{folder} holds no {missing[0]}", remedy)
    for file in files:
        try:
            with safe_open(file, "np"):  # reads the header and compares it with the file's size
                continue
        except SafetensorError as error:
            return Finding("model", "wrong", f"{file} is not whole ({error})", remedy)
    return Finding(
        "model", "ok", f"{folder}, {sum(file.stat().st_size for file in files) / 2**20:.0f} MiB"
    )


def hub_model(source: str, revision: str | None) -> Finding:
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        if isinstance(try_to_load_from_cache(source, "config.json", revision=revision), str):
            return Finding("model", "ok", f"{source} is in the hub's cache")
    except HFValidationError:
        return Finding(
            "model",
            "wrong",
            f"{source!r} is neither a folder nor a hub id",
            "correct its source in params.yaml",
        )
    if constants.HF_HUB_OFFLINE:
        said = f"{source} is not in the hub's cache, and HF_HUB_OFFLINE forbids to fetch it"
        return Finding(
            "model", "wrong", said, "unset HF_HUB_OFFLINE, or set its source to a local folder"
        )
    return Finding(
        "model",
        "note",
        f"{source} is not in the hub's cache yet",
        "the first `dvc repro` downloads it",
    )


def tracking() -> Finding:
    if os.environ.get("INNERPISSA_TRACKING") == "off":
        return Finding(
            "tracking", "note", "off, by INNERPISSA_TRACKING", "unset it to see runs in MLflow"
        )
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if uri and uri.startswith("http"):
        return server(uri)
    if uri and not uri.startswith("sqlite:///"):
        said = f"MLFLOW_TRACKING_URI is {uri!r}, no server and no sqlite store"
        return Finding(
            "tracking", "wrong", said, "unset it, or set sqlite:///<file> or http://<server>"
        )
    return store(Path(uri.removeprefix("sqlite:///") if uri else "mlflow.db"))


def server(uri: str) -> Finding:
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=3):
            return Finding("tracking", "ok", uri)
    except (urllib.error.URLError, OSError, ValueError) as error:
        said = f"{uri} does not answer ({error}); stages would run untracked"
        return Finding(
            "tracking",
            "wrong",
            said,
            "start it (`make ui` for a local one), or unset MLFLOW_TRACKING_URI",
        )


def store(file: Path) -> Finding:
    """Judge a sqlite store: one whose first migration was interrupted never opens again."""
    if not writable(file.parent) or (file.exists() and not os.access(file, os.W_OK)):
        return Finding(
            "tracking",
            "wrong",
            f"{file} cannot be written; stages would run untracked",
            "change its owner, or its place",
        )
    if not file.exists():
        return Finding("tracking", "ok", f"{file} will be made by the first stage")
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
            names = {
                name
                for (name,) in connection.execute(
                    "select name from sqlite_master where type = 'table'"
                )
            }
            versions = (
                connection.execute("select count(*) from alembic_version").fetchone()[0]
                if "alembic_version" in names
                else 0
            )
    except sqlite3.DatabaseError as error:
        return Finding(
            "tracking",
            "wrong",
            f"{file} is no database ({error})",
            f"move {file} away: the next stage makes a new one",
        )
    if (
        versions != 1
        or "runs" not in names
        or any(name.startswith("_alembic_tmp") for name in names)
    ):
        said = f"{file} was left half-migrated and will not open"
        return Finding(
            "tracking", "wrong", said, f"move {file} away: the next stage makes a new one"
        )
    return Finding("tracking", "ok", str(file))


CHECKS = (parameters, behaviours, suffixes, model, tracking)
