"""The study: parameters, behaviours, suffixes, the model's files, the tracking store."""

import json
import os
import sqlite3
import urllib.request
from contextlib import closing
from pathlib import Path

from pipeline.app import doctor
from pipeline.app.doctor import Check, Note, Wrong
from pipeline.app.doctor.setup import writable
from pipeline.study.behaviours import load_behaviour
from pipeline.support.files import visible
from pipeline.support.paths import SUFFIXES, behaviour_file, resolve_source


def parameters() -> str:
    params = doctor.parameters()
    cells = len(params.methods) * len(params.seeds) + len(params.baselines)
    return f"valid: {params.model}, {params.behaviour} on {params.evalset}, {cells} cells"


def behaviours() -> str:
    params = doctor.parameters()
    names = list(dict.fromkeys([params.behaviour, *params.composition.behaviours]))
    targets = [load_behaviour(behaviour_file(name)).targets for name in names][0]
    if params.evalset not in targets:
        said = f"{behaviour_file(params.behaviour)} has no target for {params.evalset!r}"
        raise Wrong(said, "add one under targets")
    return ", ".join(names)


def suffixes() -> str:
    files = visible(SUFFIXES, "*.json")
    files += visible(SUFFIXES, "*/*.json") if files else []
    if not files:
        raise Wrong(f"{SUFFIXES} holds no *.json", f"`git checkout {SUFFIXES}`")
    for file in files:
        try:
            json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            remedy = f"correct it, or `git checkout {file}`"
            raise Wrong(f"{file} is not valid JSON ({error})", remedy) from None
    return f"{len(files)} files"


def model() -> str:
    params = doctor.parameters()
    entry = params.models[params.model]
    local = resolve_source(entry.source)
    if entry.source.endswith(".gguf"):
        return gguf_model(entry.source, local)
    return local_model(local) if local else hub_model(entry.source, entry.revision)


def gguf_model(source: str, file: Path | None) -> str:
    if file is None:
        raise Wrong(f"{source} does not exist", "correct its path; SmolLM2: `make smollm2`")
    with file.open("rb") as handle:
        if handle.read(4) != b"GGUF":
            raise Wrong(f"{file} is no GGUF file", "copy or download it again")
    return f"{file}, {file.stat().st_size / 2**20:.0f} MiB"


def local_model(folder: Path) -> str:
    from safetensors import SafetensorError, safe_open

    remedy = f"copy the model again; the bundled one: `git checkout {folder}`"
    files = sorted(folder.glob("*.safetensors"))
    shards = folder / "model.safetensors.index.json"
    named = json.loads(shards.read_text(encoding="utf-8"))["weight_map"] if shards.exists() else {}
    for name in ("config.json", "tokenizer.json", *sorted(set(named.values()))):
        if not (folder / name).exists():
            raise Wrong(f"{folder} holds no {name}", remedy)
    if not files:
        raise Wrong(f"{folder} holds no *.safetensors", remedy)
    for file in files:
        try:
            with safe_open(file, "np"):  # reads the header and compares it with the file's size
                continue
        except SafetensorError as error:
            raise Wrong(f"{file} is not whole ({error})", remedy) from None
    return f"{folder}, {sum(file.stat().st_size for file in files) / 2**20:.0f} MiB"


def hub_model(source: str, revision: str | None) -> str:
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        if isinstance(try_to_load_from_cache(source, "config.json", revision=revision), str):
            return f"{source} is in the hub's cache"
    except HFValidationError:
        said = f"{source!r} is neither a folder nor a hub id"
        raise Wrong(said, "correct its source in params.yaml") from None
    if constants.HF_HUB_OFFLINE:
        said = f"{source} is not in the hub's cache, and HF_HUB_OFFLINE forbids to fetch it"
        raise Wrong(said, "unset HF_HUB_OFFLINE, or set its source to a local folder")
    raise Note(f"{source} is not in the hub's cache yet", "the first `dvc repro` downloads it")


def tracking() -> str:
    if os.environ.get("INNERPISSA_TRACKING") == "off":
        raise Note("off, by INNERPISSA_TRACKING", "unset it to see runs in MLflow")
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if uri.startswith("http"):
        return server(uri)
    if not uri.startswith("sqlite:///"):
        said = f"MLFLOW_TRACKING_URI is {uri!r}, no server and no sqlite store"
        raise Wrong(said, "unset it, or set sqlite:///<file> or http://<server>")
    return store(Path(uri.removeprefix("sqlite:///")))


def server(uri: str) -> str:
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=3):
            return uri
    except (OSError, ValueError) as error:
        raise Wrong(
            f"{uri} does not answer ({error}); stages would run untracked",
            "start it (`make ui` for a local one), or unset MLFLOW_TRACKING_URI",
        ) from None


def store(file: Path) -> str:
    """Judge a sqlite store: one whose first migration was interrupted never opens again."""
    if not writable(file.parent) or (file.exists() and not os.access(file, os.W_OK)):
        said = f"{file} cannot be written; stages would run untracked"
        raise Wrong(said, "change its owner, or its place")
    if not file.exists():
        return f"{file} will be made by the first stage"
    remedy = f"move {file} away: the next stage makes a new one"
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
            rows = connection.execute("select name from sqlite_master where type = 'table'")
            names = {name for (name,) in rows}
            whole = {"runs", "alembic_version"} <= names and connection.execute(
                "select count(*) from alembic_version"
            ).fetchone() == (1,)
    except sqlite3.DatabaseError as error:
        raise Wrong(f"{file} is no database ({error})", remedy) from None
    if not whole or any(name.startswith("_alembic_tmp") for name in names):
        raise Wrong(f"{file} was left half-migrated and will not open", remedy)
    return str(file)


CHECKS: tuple[Check, ...] = (parameters, behaviours, suffixes, model, tracking)
