"""`python -m pipeline doctor`: what is wrong with a set-up, and what to do about it.

It reads only, and goes on where a package is missing. A check looks at the folder that it is called
in; it returns what is well, or raises a Fault: a note stops nothing, what is wrong does.
"""

import configparser
import json
import os
import platform
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.support.errors import InputError
from pipeline.support.paths import resolve_source

INSTALL = "`pip install --constraint requirements.lock --editable .`"
STYLE = {"ok": "green", "note": "yellow", "wrong": "bold red"}
GIB = 2**30  # the bundled study with its cache and its store stays well below


class Fault(Exception):
    """A state, what was found, and the remedy."""


class Finding(NamedTuple):
    check: str
    state: str
    said: str
    remedy: str = ""


def expect(good: object, said: str, remedy: str, state: str = "wrong") -> str:
    """Return what was found if it is good, else raise it."""
    if not good:
        raise Fault(state, said, remedy)
    return said


def params() -> Any:
    from pipeline.study.params import load_params

    return load_params()


def packages() -> str:
    from importlib.metadata import PackageNotFoundError, version

    from packaging.requirements import Requirement

    file, remedy = Path("pyproject.toml"), "run doctor from the project's root"
    expect(file.exists(), "pyproject.toml does not exist", remedy)
    project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
    bad = []
    for one in map(Requirement, [f"python{project['requires-python']}", *project["dependencies"]]):
        try:
            own = platform.python_version() if one.name == "python" else version(one.name)
            if not one.specifier.contains(own, prereleases=True):
                bad.append(f"{one.name} is {own}, needed is {one.specifier}")
        except PackageNotFoundError:
            bad.append(f"{one.name} is missing")
    new = "`rm -r .venv && make repro PYTHON=<a Python in that range>`"
    expect(not bad, "; ".join(bad), new if "".join(bad).startswith("python ") else INSTALL)
    return "Python and all packages are within the ranges of pyproject.toml"


def disk() -> str:
    free = shutil.disk_usage(".").free
    remedy = "free some: `dvc gc --workspace` drops old outputs from DVC's cache"
    return expect(free >= GIB, f"{free / GIB:.1f} GiB free", remedy)


def available_memory() -> int:
    from psutil import virtual_memory

    return virtual_memory().available


def memory() -> str:
    from pipeline.support.files import visible

    study, free = params(), available_memory()
    source = resolve_source(study.models[study.model].source)
    files = visible(source, "*.safetensors") if source and source.is_dir() else []
    # Weights may be held in twice their bytes on disk, and their decompositions beside them.
    needed = GIB + 4 * sum(file.stat().st_size for file in files)
    said = f"{free / GIB:.1f} GiB free, {study.model} needs about {needed / GIB:.1f}"
    return expect(free >= needed, said, "close other programs, or set `model` to a smaller one")


def device() -> str:
    wanted = params().device
    import torch

    if wanted == "auto":
        usable = torch.cuda.is_available() or not shutil.which("nvidia-smi")
        said = f"a GPU's driver is here, but torch {torch.__version__} cannot use it: the CPU works"
        expect(usable, said, "install a torch build with CUDA, or set device: cpu", "note")
    elif wanted != "spread":
        try:
            torch.empty(0, device=wanted)
        except (RuntimeError, AssertionError):
            said = f"params.yaml asks for {wanted!r}, which torch cannot use here"
            raise Fault("wrong", said, "set device: auto") from None
    return wanted


def git(*words: str) -> subprocess.CompletedProcess[str]:
    expect(shutil.which("git"), "git is not on the PATH", "install git")
    return subprocess.run(["git", *words], capture_output=True, encoding="utf-8", errors="replace")


def repository() -> str:
    found = git("rev-parse", "--show-toplevel")
    folders = [folder for folder in Path.cwd().parents if (folder / ".git").exists()]
    owner = shlex.quote(str([*folders, Path.cwd()][0]))
    said = "the repository belongs to another user, so git does not read it"
    remedy = f"`git config --global --add safe.directory {owner}`"
    expect("safe.directory" not in found.stderr, said, remedy)
    remedy = "`git clone` the project instead of a copy, or `dvc config --local core.no_scm true`"
    remedy += " (without experiments)"
    expect(found.returncode == 0, "this folder is in no git repository", remedy)
    commit = git("rev-parse", "--short", "HEAD")
    said = "the repository has no commit, which `dvc exp run` starts from"
    expect(commit.returncode == 0, said, "`git add -A && git commit`")
    return f"at commit {commit.stdout.strip()}"


def identity() -> str:
    given = {f"user.{key}": f"GIT_COMMITTER_{key.upper()}" for key in ("name", "email")}
    missing = [
        key for key in given if not (git("config", key).stdout or os.environ.get(given[key]))
    ]
    remedy = " and ".join(f'`git config {key} "..."`' for key in missing)
    expect(not missing, f"{' and '.join(missing)} not set: `dvc exp run` cannot commit", remedy)
    return "name and email are set"


def index() -> str:
    lock = git("rev-parse", "--git-path", "index.lock").stdout.strip()
    remedy = f"if no git command runs, `rm {shlex.quote(lock)}`"
    said = "locked, perhaps by a git command that was killed"
    expect(not lock or not Path(lock).exists(), said, remedy)
    unmerged = git("diff", "--name-only", "--diff-filter=U").stdout.splitlines()
    remedy = "resolve and `git add` them; `dvc exp run` stops before that"
    expect(not unmerged, f"unresolved conflicts in {', '.join(unmerged)}", remedy)
    words = "ls-files", "--others", "--exclude-standard", "--", "*.py", "*.yaml", "data/raw"
    new = git(*words).stdout.splitlines()
    said = f"not in git: {', '.join(new[:3])}; queued and --temp experiments would not see them"
    expect(not new, said, "`git add` them", "note")
    return "nothing in the way"


def dvc() -> str:
    remedy = "run from the project's root, or `git checkout .dvc`"
    expect(Path(".dvc/config").exists(), "this folder has no .dvc/config", remedy)
    here, ends = Path(sys.executable).parent, "stages would run elsewhere, or not at all"
    remedy = "`. .venv/bin/activate`; `make repro` needs no such thing"
    for program in ("dvc", "python"):
        path = shutil.which(program) or "not on the PATH"
        said = f"`{program}` is {path}, not {here / program}: {ends}"
        expect(Path(path).parent == here, said, remedy)
    return f"{here / 'dvc'}, as this Python"


def writable(path: Path) -> bool:
    """Return whether a folder can be written, or made, without trying."""
    while not path.exists():
        path = path.parent
    return path.is_dir() and os.access(path, os.W_OK | os.X_OK)


def cache() -> str:
    """Judge DVC's cache, whose path in the configuration is relative to .dvc."""
    config = configparser.ConfigParser(strict=False, interpolation=None)
    config.read([".dvc/config", ".dvc/config.local"], encoding="utf-8")
    folder = Path(".dvc") / config.get("cache", "dir", fallback="cache")
    remedy = "change its owner, or `dvc cache dir --local <folder>`"
    expect(writable(folder), f"{folder} cannot be written", remedy)
    return str(folder)


def lock() -> str:
    file = Path(".dvc/tmp/rwlock")
    try:
        good = not file.exists() or isinstance(json.loads(file.read_text(encoding="utf-8")), dict)
    except ValueError:
        good = False
    expect(good, f"{file} is damaged, so every dvc command fails", f"`rm {file}`")
    return "whole"


def unfinished() -> str:
    """Find half-written outputs, and what interrupted stages keep, to go on from."""
    from pipeline.support.files import leftovers
    from pipeline.support.scratch import FOLDER, KEPT_DAYS

    roots = [Path(root) for root in ("data", "models", "reports")]
    folders = [*roots, *(path for root in roots for path in root.rglob("*"))]
    half = [path for folder in folders if folder.is_dir() for path in leftovers(folder)]
    remedy = "no stage counts them; `dvc repro` clears its own, delete the others"
    expect(not half, f"{len(half)} half-written, such as {[*half, ''][0]}", remedy, "note")
    kept = sorted(path.name for path in FOLDER.glob("*"))
    size = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) / 2**20
    said = f"{len(kept)} keep {size:.1f} MiB to go on from: {', '.join(kept[:3])}"
    remedy = "the same command with the same parameters goes on; else they go after "
    remedy += f"{KEPT_DAYS} days, or by `rm -r {FOLDER}` while no stage runs"
    expect(not kept, said, remedy, "note")
    return "none"


def parameters() -> str:
    study = params()
    cells = len(study.methods) * len(study.seeds) + len(study.baselines)
    return f"valid: {study.model}, {study.behaviour} on {study.evalset}, {cells} cells"


def model() -> str:
    from safetensors import SafetensorError, safe_open

    from pipeline.support.files import visible

    study = params()
    source = study.models[study.model].source
    folder = resolve_source(source)
    remedy = "`dvc repro` downloads it, if it is a hub id; else correct its path in params.yaml"
    if folder is None:
        raise Fault("note", f"{source} is no file or folder here", remedy)
    if not folder.is_dir():
        return source
    remedy = f"copy the model again; the bundled one: `git checkout {shlex.quote(str(folder))}`"
    files, shards = visible(folder, "*.safetensors"), folder / "model.safetensors.index.json"
    named = json.loads(shards.read_text(encoding="utf-8"))["weight_map"] if shards.exists() else {}
    for name in ("config.json", "tokenizer.json", *sorted(set(named.values()))):
        expect((folder / name).exists(), f"{folder} holds no {name}", remedy)
    expect(files, f"{folder} holds no *.safetensors", remedy)
    for file in files:
        try:
            safe_open(file, "np")  # reads the header and compares it with the file's size
        except SafetensorError as error:
            raise Fault("wrong", f"{file} is not whole ({error})", remedy) from None
    return f"{folder}, {sum(file.stat().st_size for file in files) / 2**20:.0f} MiB"


def tracking() -> str:
    off = os.environ.get("INNERPISSA_TRACKING") == "off"
    expect(not off, "off, by INNERPISSA_TRACKING", "unset it to see runs in MLflow", "note")
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return store(Path("mlflow.db"))
    if uri.startswith("http"):
        from pipeline.study.store import check_server

        try:
            check_server(uri)
        except ConnectionError as error:
            remedy = "start it (`make ui` for a local one), or unset MLFLOW_TRACKING_URI"
            raise Fault("wrong", f"{error}; stages would run untracked", remedy) from None
        return uri
    said = f"MLFLOW_TRACKING_URI is {uri!r}, no server and no sqlite store"
    remedy = "unset it, or set sqlite:///<file> or http://<server>"
    expect(uri.startswith("sqlite:///"), said, remedy)
    from sqlalchemy import make_url

    from pipeline.study.store import address

    return store(Path(make_url(address(uri)).database or ""))


def store(file: Path) -> str:
    """Judge a sqlite store: one whose first migration was interrupted never opens again."""
    good = writable(file.parent) and (not file.exists() or os.access(file, os.W_OK))
    said = f"{file} cannot be written; stages would run untracked"
    expect(good, said, "change its owner, or its place")
    if not file.exists():
        return f"{file} will be made by the first stage"
    remedy = f"move {file} away: the next stage makes a new one"
    count = "select count(*) from alembic_version"
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as opened:
            rows = opened.execute("select name from sqlite_master where type = 'table'")
            names = {name for (name,) in rows}
            whole = {"runs", "alembic_version"} <= names
            whole = whole and opened.execute(count).fetchone() == (1,)
    except sqlite3.DatabaseError as error:
        raise Fault("wrong", f"{file} is no database ({error})", remedy) from None
    whole = whole and not any(name.startswith("_alembic_tmp") for name in names)
    expect(whole, f"{file} was left half-migrated and will not open", remedy)
    return str(file)


CHECKS = [
    *(packages, disk, memory, device, repository, identity, index, dvc, cache, lock, unfinished),
    *(parameters, model, tracking),
]


def examine(checks: Iterable[Callable[[], str]]) -> list[Finding]:
    """Run checks; what several of them refuse in the same words is one finding."""
    findings: list[Finding] = []
    for check in checks:
        try:
            found: tuple[str, ...] = "ok", check()
        except Fault as fault:
            found = fault.args
        except InputError as error:
            found = "wrong", str(error), "correct what it names"
        except ImportError as error:
            found = "wrong", f"the package {error.name} cannot be loaded: {error}", INSTALL
        if found[0] == "ok" or found[1] not in (one.said for one in findings):
            findings.append(Finding(check.__name__, *found))
    return findings


def main() -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("check", "state", "what was found", "what to do", show_lines=True)
    findings = examine(CHECKS)
    for check, state, said, remedy in findings:
        table.add_row(check, Text(state, STYLE[state]), Text(said), Text(remedy))
    Console().print(table)
    if any(finding.state == "wrong" for finding in findings):
        raise SystemExit(1)
