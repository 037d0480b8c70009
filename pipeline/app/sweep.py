"""Experiments over a product of parameters, run here or on a Ray cluster, each once.

An experiment is a `dvc exp run` of its own in a clean copy of this commit.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from pipeline.app.study import explained, overridden, settings
from pipeline.app.sweep_ray import bring, dvc, ref, run_on_ray
from pipeline.study import store
from pipeline.study.params import Params
from pipeline.support.errors import InputError
from pipeline.support.git import git
from pipeline.support.section import parse, read_yaml

DIGEST = 8  # a name ends with so many digits, which stand for all its parameters


def main(overrides: list[str], on: str, place: str, cpus: int, gpus: float | None) -> None:
    """Run what has not finished of the overrides' product; a later call goes on from there."""
    if on not in ("local", "ray"):
        raise InputError(f"--on is {on!r}: allowed are local and ray")
    experiments, commit = expand(overrides), clean_commit()
    url = "." if on == "local" else (git("remote", "get-url", place) or place).strip()
    url = str(Path(url).resolve()) if Path(url).is_dir() else url
    had = {name[-DIGEST:]: name for name in finished(url, commit)}
    names = {had.get(name[-DIGEST:], name): own for name, own in experiments.items()}
    todo = {name: own for name, own in names.items() if name not in had.values()}
    print(f"{len(todo)} of {len(names)} experiments have to run", flush=True)
    if on == "local":
        run = "exp", "run", "--temp", "--name"
        failed = [name for name, own in todo.items() if dvc(*run, name, *settings(own))]
    else:
        failed = [name for name in names if name not in todo and bring(url, commit, name)]
        tasks = {name: settings(own) for name, own in todo.items()}
        failed += run_on_ray(tasks, commit, url, cpus, gpus) if tasks else []
    if failed:
        said = f"{', '.join(failed)} failed, as said above"
        raise InputError(f"{said}: once mended, the same command goes on")
    print(f"all have finished: python -m pipeline compare {' '.join(names)}")


def expand(overrides: list[str]) -> dict[str, list[str]]:
    """Return each point of the product: a name that says what differs -> its overrides.

    Raises InputError for what is no override, an unknown key, and parameters that are not valid.
    """
    from dvc.utils.hydra import get_hydra_sweeps

    params = read_yaml("params.yaml")
    with explained(overrides):
        points = [each["params.yaml"] for each in get_hydra_sweeps({"params.yaml": overrides})]
        trees = [overridden(params, point) for point in points]
    for tree, point in zip(trees, points, strict=True):
        parse(Params, tree, " ".join(settings(point)))
    keys = [text.partition("=")[0].lstrip("+~") for text in points[0]]
    varied = [key for key, *texts in zip(keys, *points, strict=True) if len(set(texts)) > 1]
    names = [experiment_name(tree, varied or keys) for tree in trees]
    return dict(zip(names, points, strict=True))


def experiment_name(tree: dict[str, Any], keys: list[str]) -> str:
    """Return the values of some keys and a hash of all parameters, as a name for git."""
    values = dict(store.flatten(tree))
    shown = "-".join(f"{key.rpartition('.')[2]}-{values.get(key, '')}" for key in keys)
    digest = hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:DIGEST]
    return f"{re.sub(r'[^A-Za-z0-9.]+', '-', shown)[:60].strip('-.')}-{digest}"


def clean_commit() -> str:
    """Return the commit that experiments start from; refuse what would not travel with it."""
    if not (commit := git("rev-parse", "HEAD")):
        raise InputError("there is no commit here: `git init`, then commit the project")
    if changed := (git("status", "--porcelain") or "").splitlines():
        said = f"{len(changed)} files are not as committed, such as {changed[0][3:]}"
        raise InputError(f"{said}, and would not travel: commit, stash or ignore them")
    return commit.strip()


def finished(url: str, commit: str) -> list[str]:
    """Return the names of the experiments that a repository has from this commit."""
    if (listed := git("ls-remote", url, ref(commit, "*"))) is None:
        said = f"git cannot read {url!r}: `git remote add origin URL`"
        raise InputError(f"{said}, or --git with one that this machine and all workers reach")
    return [line.rpartition("/")[2] for line in listed.splitlines()]
