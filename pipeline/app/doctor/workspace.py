"""Git and DVC: a repository with an identity, one environment, a cache that can be written, nothing
left of the dead.
"""

import configparser
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from pipeline.app.doctor import Finding
from pipeline.support.files import alive, leftovers
from pipeline.support.scratch import FOLDER, KEPT_DAYS


def git(*words: str) -> str | None:
    """Return what a git command says, None where it fails."""
    found = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else None


def repository() -> Finding:
    if not shutil.which("git"):
        return Finding("git", "wrong", "git is not on the PATH", "install git")
    if git("rev-parse", "--is-inside-work-tree") is None:
        remedy = (
            "`git clone` the project instead of a copy, or `dvc config --local core.no_scm "
            "true` (without experiments)"
        )
        return Finding(
            "git", "wrong", "this folder is in no git repository that this user may read", remedy
        )
    if git("rev-parse", "HEAD") is None:
        return Finding(
            "git",
            "wrong",
            "the repository has no commit, which `dvc exp run` starts from",
            "`git add -A && git commit`",
        )
    return Finding("git", "ok", f"at commit {git('rev-parse', '--short', 'HEAD')}")


def identity() -> Finding:
    named = {
        key: git("config", f"user.{key}") or os.environ.get(f"GIT_COMMITTER_{key.upper()}")
        for key in ("name", "email")
    }
    if missing := [f"user.{key}" for key, value in named.items() if not value]:
        remedy = " and ".join(f'`git config {key} "..."`' for key in missing)
        return Finding(
            "git identity",
            "wrong",
            f"{' and '.join(missing)} not set: `dvc exp run` cannot commit",
            remedy,
        )
    return Finding("git identity", "ok", f"{named['name']} <{named['email']}>")


def index() -> Finding:
    folder = git("rev-parse", "--git-dir")
    if folder and (Path(folder) / "index.lock").exists():
        remedy = f"if no git command runs, `rm {folder}/index.lock`"
        return Finding(
            "git index", "wrong", "locked, perhaps by a git command that was killed", remedy
        )
    if unmerged := git("diff", "--name-only", "--diff-filter=U"):
        said = f"unresolved conflicts in {', '.join(unmerged.split())}"
        return Finding(
            "git index",
            "wrong",
            said,
            "resolve and `git add` them; `dvc exp run` stops before that",
        )
    if new := git("ls-files", "--others", "--exclude-standard", "--", "*.py", "*.yaml", "data/raw"):
        said = (
            f"not in git: {', '.join(new.split()[:3])}; queued and --temp experiments would not "
            "see them"
        )
        return Finding("git index", "note", said, "`git add` them")
    return Finding("git index", "ok", "nothing in the way")


def dvc() -> Finding:
    if not Path(".dvc/config").exists():
        return Finding(
            "dvc",
            "wrong",
            "this folder has no .dvc/config",
            "run from the project's root, or `git checkout .dvc`",
        )
    here = Path(sys.executable).parent
    for program in ("dvc", "python"):
        found = shutil.which(program)
        if not found or Path(found).parent != here:
            said = (
                f"`{program}` is {found or 'not on the PATH'}, not {here / program}: stages "
                "would run elsewhere, or not at all"
            )
            return Finding(
                "dvc", "wrong", said, "`. .venv/bin/activate`; `make repro` needs no such thing"
            )
    return Finding("dvc", "ok", f"{here / 'dvc'}, as this Python")


def cache_folder() -> Path:
    """Return DVC's cache, from .dvc/config.local or .dvc/config, whose paths are relative to
    .dvc.
    """
    config = configparser.ConfigParser(strict=False, interpolation=None)
    config.read(".dvc/config")
    config.read(".dvc/config.local")
    return Path(".dvc") / config.get("cache", "dir", fallback="cache")


def writable(path: Path) -> bool:
    """Return whether a folder can be written, or made, without trying."""
    while not path.exists():
        path = path.parent
    return path.is_dir() and os.access(path, os.W_OK | os.X_OK)


def cache() -> Finding:
    folder = cache_folder()
    if not writable(folder):
        return Finding(
            "dvc cache",
            "wrong",
            f"{folder} cannot be written",
            "change its owner, or `dvc cache dir --local <folder>`",
        )
    return Finding("dvc cache", "ok", str(folder))


def lock() -> Finding:
    file = Path(".dvc/tmp/rwlock")
    try:
        held = json.loads(file.read_text()) if file.exists() else {}
        holders = [
            *held.get("write", {}).values(),
            *(one for several in held.get("read", {}).values() for one in several),
        ]
        pids = {int(one["pid"]) for one in holders}
    except (ValueError, AttributeError, KeyError, TypeError):
        return Finding(
            "dvc lock", "wrong", f"{file} is damaged, so every dvc command fails", f"`rm {file}`"
        )
    if running := sorted(pid for pid in pids if alive(pid)):
        return Finding(
            "dvc lock",
            "note",
            f"process {running[0]} runs dvc here",
            "wait for it; a second run would be refused",
        )
    if pids:
        return Finding(
            "dvc lock",
            "note",
            f"held by process {min(pids)}, which was killed",
            f"the next `dvc repro` frees it; `rm {file}` does too",
        )
    return Finding("dvc lock", "ok", "free")


def killed_runs() -> Finding:
    roots = [Path(name) for name in ("data", "models", "reports") if Path(name).is_dir()]
    folders = [
        folder
        for root in roots
        for folder in (root, *(path for path in root.rglob("*") if path.is_dir()))
    ]
    if found := [path for folder in folders if folder.exists() for path in leftovers(folder)]:
        said = f"{len(found)} half-written, such as {found[0]}"
        return Finding(
            "killed runs",
            "note",
            said,
            "no stage counts them; `dvc repro` clears its own, delete the others",
        )
    return Finding("killed runs", "ok", "nothing half-written")


def unfinished() -> Finding:
    """Say what interrupted stages keep, to go on from."""
    kept = sorted(FOLDER.glob("*"))
    if not kept:
        return Finding("unfinished stages", "ok", "none")
    size = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) / 2**20
    said = (
        f"{len(kept)} keep {size:.1f} MiB to go on from: "
        f"{', '.join(path.name for path in kept[:3])}"
    )
    remedy = (
        f"the same command with the same parameters goes on; else they go after {KEPT_DAYS} "
        f"days, or by `rm -r {FOLDER}`"
    )
    return Finding("unfinished stages", "note", said, f"{remedy} while no stage runs")


CHECKS = (repository, identity, index, dvc, cache, lock, killed_runs, unfinished)
