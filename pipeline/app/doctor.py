"""`python -m pipeline doctor`: what is wrong with a set-up, and what to do about it.

It reads only, and goes on where a package is missing. A check looks at the folder that it is called
in. It yields rows: whether it is good, what was found, the remedy, and `note` for what stops
nothing. What is wrong ends a check; else its last row says what is well.
"""

import configparser
import json
import os
import platform
import re
import shlex
import shutil
import sqlite3
import sys
import tomllib
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.support.errors import InputError
from pipeline.support.git import git
from pipeline.support.paths import resolve_source

Rows = Iterator[tuple[Any, ...]]
Finding = namedtuple("Finding", "check state said remedy")
NEW = "`rm -r .venv && make repro PYTHON=<a Python in that range>`"
INSTALL = "`pip install --constraint requirements.lock --editable .`"
GIB = 2**30  # the bundled study with its cache and its store stays well below
# Counts 1 in a whole store: one whose first migration was interrupted never opens again.
WHOLE = """select count(*) from alembic_version
where not exists (select 1 from sqlite_master where name glob '_alembic_tmp*')"""


def trouble(action: Callable[..., object], *given: object) -> str:
    """Return why a call fails; nothing where it works."""
    try:
        action(*given)
    except Exception as error:
        return str(error) or type(error).__name__
    return ""


def ask(*words: str) -> str:
    return (git(*words) or "").strip()


def writable(path: Path) -> bool:
    """Return whether a folder can be written, or made, without trying."""
    there = next(one for one in (path, *path.absolute().parents) if one.exists())
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def packages() -> Rows:
    from packaging.requirements import Requirement

    file = Path("pyproject.toml")
    yield file.exists(), f"{file} does not exist", "run doctor from the project's root"
    project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
    for one in map(Requirement, [f"python{project['requires-python']}", *project["dependencies"]]):
        own = platform.python_version() if one.name == "python" else version(one.name)
        good = one.specifier.contains(own, prereleases=True)
        remedy = NEW if one.name == "python" else INSTALL
        yield good, f"{one.name} is {own}, needed is {one.specifier}", remedy
    yield True, f"Python and all packages are within the ranges of {file}", ""


def repository() -> Rows:
    yield shutil.which("git"), "git is not on the PATH", "install git"
    root = ask("-c", "safe.directory=*", "rev-parse", "--show-toplevel")
    remedy = "`git clone` it, or `dvc config --local core.no_scm true` (without experiments)"
    yield root, "this folder is in no git repository", remedy
    said = "the repository belongs to another user, so git does not read it"
    remedy = f"`git config --global --add safe.directory {shlex.quote(root)}`"
    yield ask("rev-parse", "--show-toplevel"), said, remedy
    commit = ask("rev-parse", "--short", "HEAD")
    yield commit, "it has no commit, from which `dvc exp run` starts", "`git add -A && git commit`"
    identity = ask("-c", "user.useConfigOnly=true", "var", "GIT_COMMITTER_IDENT")
    remedy = '`git config user.name "..."` and `git config user.email "..."`'
    yield identity, "user.name or user.email not set: `dvc exp run` cannot commit", remedy
    lock = Path(ask("rev-parse", "--git-path", "index.lock"))
    remedy = f"if no git command runs, `rm {shlex.quote(str(lock))}`"
    yield not lock.exists(), "the index is locked, perhaps by a git command that was killed", remedy
    unmerged = ask("diff", "--name-only", "--diff-filter=U").replace("\n", ", ")
    yield not unmerged, f"unresolved conflicts in {unmerged}", "resolve and `git add` them"
    words = "ls-files", "--others", "--exclude-standard", "--", "*.py", "*.yaml", "data/raw"
    new = ", ".join(ask(*words).split("\n")[:3])
    said = f"not in git: {new}; queued and --temp experiments would not see them"
    yield not new, said, "`git add` them", "note"
    yield True, f"at commit {commit}", ""


def dvc() -> Rows:
    yield Path(".dvc/config").exists(), "this folder has no .dvc/config", "`git checkout .dvc`"
    here, remedy = Path(sys.executable).parent, "`. .venv/bin/activate`, or call `make repro`"
    for program in ("dvc", "python"):
        path = Path(shutil.which(program) or "not on the PATH")
        said = f"`{program}` is {path}, not in {here}: stages would run elsewhere, or not at all"
        yield path.parent == here, said, remedy
    config = configparser.ConfigParser(strict=False, interpolation=None)
    config.read([".dvc/config", ".dvc/config.local"], encoding="utf-8")
    cache = Path(".dvc") / config.get("cache", "dir", fallback="cache")
    remedy = "change its owner, or `dvc cache dir --local <folder>`"
    yield writable(cache), f"{cache} cannot be written", remedy
    lock = Path(".dvc/tmp/rwlock")
    bad = lock.exists() and trouble(lambda: json.loads(lock.read_text(encoding="utf-8")).keys())
    yield not bad, f"{lock} is damaged, so every dvc command fails", f"`rm {lock}`"
    free = shutil.disk_usage(".").free
    said, remedy = f"{free / GIB:.1f} GiB free on the disk", "`dvc gc --workspace` drops old copies"
    yield free >= GIB, said, remedy
    yield from unfinished()
    yield True, f"{here / 'dvc'}, as this Python; {said}", ""


def unfinished() -> Rows:
    """Find half-written outputs, and what interrupted stages keep, to go on from."""
    from pipeline.support.files import leftovers
    from pipeline.support.scratch import FOLDER, KEPT_DAYS

    folders = [path for root in ("data", "models", "reports") for path in Path(root).glob("**/")]
    half = [str(path) for folder in folders for path in leftovers(folder)]
    remedy = "no stage counts them; `dvc repro` clears its own, delete the others"
    yield not half, f"{len(half)} half-written, such as {''.join(half[:1])}", remedy, "note"
    kept = sorted(path.name for path in FOLDER.glob("*"))
    size = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) / 2**20
    said = f"{len(kept)} keep {size:.1f} MiB to go on from: {', '.join(kept[:3])}"
    remedy = "the same command with the same parameters goes on; else they go after "
    remedy += f"{KEPT_DAYS} days, or by `rm -r {FOLDER}` while no stage runs"
    yield not kept, said, remedy, "note"


def study() -> Rows:
    import torch

    from pipeline.study.params import load_params

    params = load_params()
    device, source = params.device, params.models[params.model].source
    usable = device != "auto" or torch.cuda.is_available() or not shutil.which("nvidia-smi")
    said = f"a GPU's driver is here, but torch {torch.__version__} cannot use it: the CPU works"
    yield usable, said, "install a torch build with CUDA, or set device: cpu", "note"
    bad = device not in ("auto", "spread") and trouble(lambda: torch.empty(0, device=device))
    yield not bad, f"params.yaml asks for {device!r}, which torch cannot use", "set device: auto"
    yield from weights(source)
    yield True, f"{source}, {params.behaviour} on {params.evalset}, device {device}", ""


def weights(source: str) -> Rows:
    """Judge the model's files, where they are here, and the memory that they need."""
    from psutil import virtual_memory
    from safetensors import safe_open

    from pipeline.support.files import visible

    folder = resolve_source(source) or Path(source)
    remedy = "`dvc repro` downloads it, if it is a hub id; else correct its path in params.yaml"
    yield folder.exists(), f"{source} is no file or folder here", remedy, "note"
    files, index = visible(folder, "*.safetensors"), folder / "model.safetensors.index.json"
    parts = index.read_text(encoding="utf-8") if index.exists() else ""
    remedy = f"copy the model again; the bundled one: `git checkout {shlex.quote(str(folder))}`"
    if folder.is_dir():
        for name in ("config.json", "tokenizer.json", *re.findall(r"[\w.-]+\.safetensors", parts)):
            yield (folder / name).exists(), f"{folder} holds no {name}", remedy
        yield files, f"{folder} holds no *.safetensors", remedy
    for file in files:  # opening reads the header and compares it with the file's size
        bad = trouble(safe_open, file, "np")
        yield not bad, f"{file} is not whole ({bad})", remedy
    # Weights may be held in twice their bytes on disk, and their decompositions beside them.
    needed, free = GIB + 4 * sum(file.stat().st_size for file in files), virtual_memory().available
    said = f"{free / GIB:.1f} GiB of memory free, needed are about {needed / GIB:.1f}"
    yield free >= needed, said, "close other programs, or set `model` to a smaller one"


def tracking() -> Rows:
    from pipeline.study.store import address, check_server

    uri, file = os.environ.get("MLFLOW_TRACKING_URI", ""), Path("mlflow.db")
    if os.environ.get("INNERPISSA_TRACKING") == "off":
        yield False, "off, by INNERPISSA_TRACKING", "unset it to see runs in MLflow", "note"
        return
    if uri.startswith("http"):
        bad, remedy = trouble(check_server, uri), "start it, or unset MLFLOW_TRACKING_URI"
        yield not bad, f"{bad}; stages would run untracked", f"{remedy}; `make ui` is a local one"
        yield True, uri, ""
        return
    if uri:
        from sqlalchemy import make_url

        said = f"MLFLOW_TRACKING_URI is {uri!r}, no server and no sqlite store"
        remedy = "unset it, or set sqlite:///<file> or http://<server>"
        yield uri.startswith("sqlite:///"), said, remedy
        file = Path(make_url(address(uri)).database or "")
    good = writable(file.parent) and (not file.exists() or os.access(file, os.W_OK))
    yield good, f"{file} cannot be written; stages would run untracked", "change its owner"
    if file.exists():
        said = f"{file} is no database, or was left half-migrated, and will not open"
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as opened:
            # Dividing by False raises, as does a file that is no database.
            bad = trouble(lambda: 1 / (opened.execute(WHOLE).fetchone() == (1,)))
        yield not bad, said, f"move {file} away: the next stage makes a new one"
    yield True, str(file), ""


CHECKS = packages, repository, dvc, study, tracking


def examine(check: Callable[[], Rows]) -> Iterator[Finding]:
    """Yield the notes of a check; then what is wrong, or else what is well."""
    name = check.__name__
    try:
        for good, said, remedy, *note in check():
            if not good:
                yield Finding(name, "note" if note else "wrong", said, remedy)
            if not good and not note:
                return
        if good:
            yield Finding(name, "ok", said, "")
    except InputError as error:
        yield Finding(name, "wrong", str(error), "correct what it names")
    except ImportError as error:  # also of a package that is not installed at all
        yield Finding(name, "wrong", f"package {error.name} cannot be loaded: {error}", INSTALL)


def main() -> None:
    findings = [finding for check in CHECKS for finding in examine(check)]
    for name, state, said, remedy in findings:
        print(f"{state:5} {name} – {said}", *[f"      {remedy}"] * bool(remedy), sep="\n")
    if any(finding.state == "wrong" for finding in findings):
        raise SystemExit(1)
