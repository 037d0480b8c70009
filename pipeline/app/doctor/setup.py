"""The set-up: Python and its packages, the machine, git and DVC."""

import configparser
import json
import os
import platform
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from psutil import pid_exists, virtual_memory

from pipeline.app import doctor
from pipeline.app.doctor import Check, Note, Wrong, expect
from pipeline.support.errors import InputError
from pipeline.support.files import leftovers
from pipeline.support.scratch import FOLDER, KEPT_DAYS

GIB = 2**30
LEAST_DISK = 1 * GIB  # the bundled study with its cache and its store stays well below


def project() -> dict:
    try:
        return tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    except FileNotFoundError:
        said = "pyproject.toml does not exist: run doctor from the project's root"
        raise InputError(said) from None


def python() -> str:
    from packaging.specifiers import SpecifierSet

    own, needed = platform.python_version(), project()["requires-python"]
    fits = SpecifierSet(needed).contains(own, prereleases=True)
    remedy = "make .venv again: `rm -r .venv && make repro PYTHON=...`"
    return expect(fits, f"{own}, the project needs {needed}", remedy)


def packages() -> str:
    from packaging.requirements import Requirement

    bad = []
    for requirement in map(Requirement, project()["dependencies"]):
        if requirement.marker and not requirement.marker.evaluate():
            continue
        try:
            own = version(requirement.name)
            if not requirement.specifier.contains(own, prereleases=True):
                bad.append(f"{requirement.name} is {own}, needed is {requirement.specifier}")
        except PackageNotFoundError:
            bad.append(f"{requirement.name} is missing")
    expect(not bad, "; ".join(bad), doctor.INSTALL)
    return "all within the ranges of pyproject.toml"


def disk() -> str:
    free = shutil.disk_usage(".").free
    remedy = "free some: `dvc gc --workspace` drops old outputs from DVC's cache"
    return expect(free >= LEAST_DISK, f"{free / GIB:.1f} GiB free", remedy)


def available_memory() -> int:
    return virtual_memory().available


def memory() -> str:
    params, free = doctor.parameters(), available_memory()
    files = list(Path(params.models[params.model].source).glob("*.safetensors"))
    if not files:
        return f"{free / GIB:.1f} GiB free; the model is not here yet to compare it with"
    # Weights may be held in twice their bytes on disk, and their decompositions beside them.
    needed = GIB + 4 * sum(file.stat().st_size for file in files)
    said = f"{free / GIB:.1f} GiB free, {params.model} needs about {needed / GIB:.1f}"
    return expect(free >= needed, said, "close other programs, or set `model` to a smaller one")


def device() -> str:
    wanted, driver = doctor.parameters().device, shutil.which("nvidia-smi")
    nothing_but_cpu = not driver and platform.system() != "Darwin"
    if wanted in ("cpu", "spread") or (wanted == "auto" and nothing_but_cpu):
        return "cpu" if wanted == "auto" else wanted
    import torch

    if wanted == "auto" and driver and not torch.cuda.is_available():
        said = f"a GPU's driver is here, but torch {torch.__version__} cannot use it: the CPU works"
        raise Note(said, "install a torch build with CUDA, or set device: cpu")
    if wanted == "auto":
        return "cuda" if driver else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError):
        said = f"params.yaml asks for {wanted!r}, which torch cannot use here"
        raise Wrong(said, "set device: auto") from None
    return wanted


def quantisation() -> str:
    params = doctor.parameters()
    wanted = params.quantisation or params.models[params.model].quantisation
    if wanted == "none":
        return "none asked for"
    try:
        return f"{wanted}, by bitsandbytes {version('bitsandbytes')}"
    except PackageNotFoundError:
        said = f"params.yaml asks for {wanted}, and bitsandbytes is missing"
        raise Wrong(said, "`pip install bitsandbytes`") from None


def git(*words: str) -> str | None:
    """Return what a git command says, None where it fails."""
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def repository() -> str:
    expect(shutil.which("git"), "git is not on the PATH", "install git")
    expect(
        git("rev-parse", "--is-inside-work-tree"),
        "this folder is in no git repository that this user may read",
        "`git clone` the project instead of a copy, or `dvc config --local core.no_scm true` "
        "(without experiments)",
    )
    commit = git("rev-parse", "--short", "HEAD")
    said = "the repository has no commit, which `dvc exp run` starts from"
    expect(commit, said, "`git add -A && git commit`")
    return f"at commit {commit}"


def identity() -> str:
    names = {
        key: git("config", f"user.{key}") or os.environ.get(f"GIT_COMMITTER_{key.upper()}")
        for key in ("name", "email")
    }
    if missing := [f"user.{key}" for key, value in names.items() if not value]:
        remedy = " and ".join(f'`git config {key} "..."`' for key in missing)
        raise Wrong(f"{' and '.join(missing)} not set: `dvc exp run` cannot commit", remedy)
    return f"{names['name']} <{names['email']}>"


def index() -> str:
    folder = git("rev-parse", "--git-dir")
    locked = folder and (Path(folder) / "index.lock").exists()
    remedy = f"if no git command runs, `rm {folder}/index.lock`"
    expect(not locked, "locked, perhaps by a git command that was killed", remedy)
    unmerged = ", ".join((git("diff", "--name-only", "--diff-filter=U") or "").split())
    remedy = "resolve and `git add` them; `dvc exp run` stops before that"
    expect(not unmerged, f"unresolved conflicts in {unmerged}", remedy)
    new = git("ls-files", "--others", "--exclude-standard", "--", "*.py", "*.yaml", "data/raw")
    if new:
        files = ", ".join(new.split()[:3])
        said = f"not in git: {files}; queued and --temp experiments would not see them"
        raise Note(said, "`git add` them")
    return "nothing in the way"


def dvc() -> str:
    remedy = "run from the project's root, or `git checkout .dvc`"
    expect(Path(".dvc/config").exists(), "this folder has no .dvc/config", remedy)
    here = Path(sys.executable).parent
    for program in ("dvc", "python"):
        path = shutil.which(program) or "not on the PATH"
        expect(
            Path(path).parent == here,
            f"`{program}` is {path}, not {here / program}: stages would run elsewhere, or not at "
            "all",
            "`. .venv/bin/activate`; `make repro` needs no such thing",
        )
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
        held = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        readers = [one for several in held.get("read", {}).values() for one in several]
        pids = {int(one["pid"]) for one in [*held.get("write", {}).values(), *readers]}
    except (ValueError, AttributeError, KeyError, TypeError):
        raise Wrong(f"{file} is damaged, so every dvc command fails", f"`rm {file}`") from None
    if running := sorted(filter(pid_exists, pids)):
        remedy = "wait for it; a second run would be refused"
        raise Note(f"process {running[0]} runs dvc here", remedy)
    if pids:
        remedy = f"the next `dvc repro` frees it; `rm {file}` does too"
        raise Note(f"held by process {min(pids)}, which was killed", remedy)
    return "free"


def killed_runs() -> str:
    """Find half-written outputs."""
    half: list[Path] = []
    for root in ("data", "models", "reports"):
        folders = [Path(root), *Path(root).rglob("*")]
        half += [path for folder in folders if folder.is_dir() for path in leftovers(folder)]
    if half:
        remedy = "no stage counts them; `dvc repro` clears its own, delete the others"
        raise Note(f"{len(half)} half-written, such as {half[0]}", remedy)
    return "nothing half-written"


def unfinished() -> str:
    """Say what interrupted stages keep, to go on from."""
    kept = sorted(path.name for path in FOLDER.glob("*"))
    if kept:
        size = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) / 2**20
        raise Note(
            f"{len(kept)} keep {size:.1f} MiB to go on from: {', '.join(kept[:3])}",
            f"the same command with the same parameters goes on; else they go after {KEPT_DAYS} "
            f"days, or by `rm -r {FOLDER}` while no stage runs",
        )
    return "none"


CHECKS: tuple[Check, ...] = (
    *(python, packages, disk, memory, device, quantisation),
    *(repository, identity, index, dvc, cache, lock, killed_runs, unfinished),
)
