"""Results of experiments and commits from git, of the workspace and of kept folders from disk."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from ruamel.yaml import YAML

from pipeline.metrics.scores import LOG_ODDS
from pipeline.report.manifest import cells
from pipeline.study.store import flatten
from pipeline.support.errors import InputError
from pipeline.support.git import git
from pipeline.support.paths import REPORTS

WORKSPACE = "workspace"
NEEDED = {"target_effect", f"target_effect{LOG_ODDS}", "budget_reached"}


@dataclass(frozen=True)
class Result:
    """What one revision found."""

    name: str
    params: dict[str, Any]
    """Of params.yaml, flat: a dotted key -> value."""
    equal_cost: pl.DataFrame


def resolve(name: str) -> str:
    """Return the commit of an experiment's name, or else of a git revision, as DVC does."""
    listed = git("for-each-ref", "--format=%(refname) %(objectname)", "refs/exps") or ""
    refs = [line.split() for line in listed.splitlines()]
    named = [(ref.rsplit("/", 1)[1], sha) for ref, sha in refs if ref.count("/") == 4]
    commits = sorted({sha for experiment, sha in named if experiment == name})
    if len(commits) > 1:
        short = ", ".join(sha[:10] for sha in commits)
        said = f"{len(commits)} experiments are called {name!r}, on different commits"
        raise InputError(f"{said}: name one by its hash ({short})")
    revision = commits or (git("rev-parse", "--verify", "-q", f"{name}^{{commit}}") or "").split()
    if not revision:
        known = ", ".join([WORKSPACE, *sorted({experiment for experiment, _ in named})])
        said = f"{name!r} is no experiment and no git revision"
        raise InputError(f"{said}: there are {known} and all commits")
    return revision[0]


def read_text(name: str, path: str) -> str | None:
    """Return a file of a result; a folder is one that a named study kept, as reports/full."""
    folder = Path(name)
    if folder.is_dir():
        return read_text(WORKSPACE, str(folder / path.removeprefix(f"{REPORTS}/")))
    if name != WORKSPACE:
        return git("show", f"{resolve(name)}:{path}")
    return Path(path).read_text(encoding="utf-8") if Path(path).exists() else None


def read_result(name: str) -> Result:
    def read(path: str) -> str:
        if (text := read_text(name, path)) is None:
            remedy = "name a finished run of this pipeline (`dvc exp list`)"
            raise InputError(f"{name} has no {path}: {remedy}")
        return text

    params = YAML(typ="safe").load(read("params.yaml"))
    equal_cost = pl.read_csv(io.StringIO(read("reports/equal_cost.csv")))
    if equal_cost.is_empty():
        said = f"{name} measures no effect, as its behaviour has no target for its evaluation set"
        raise InputError(f"{said}: leave it out")
    if not set(equal_cost.columns) >= NEEDED:
        raise InputError(
            f"{name} lacks effects in log-odds or a common unit of c, so an older version of this "
            "project made it: run it again (`dvc exp run`)"
        )
    check_locked(name, params, read_text(name, "dvc.lock"))
    return Result(name, dict(flatten(params)), equal_cost)


def check_locked(name: str, params: dict[str, Any], lock: str | None) -> None:
    """Refuse results of other parameters: a failed experiment keeps those of its baseline."""
    stages = YAML(typ="safe").load(lock)["stages"] if lock else {}
    lists = params["methods"], params["baselines"], params["seeds"]
    for stage in sorted(cells([s for s in stages if "@" not in s], *lists) & stages.keys()):
        for key, value in stages[stage].get("params", {}).get("params.yaml", {}).items():
            own: Any = params
            for part in key.split("."):
                own = own.get(part) if isinstance(own, dict) else None
            if own != value:
                said = f"{name}: the results are of another {key} than its params.yaml"
                raise InputError(f"{said}: it failed, or needs `dvc repro`")


def differing(results: list[Result]) -> list[str]:
    """Return the parameters, flat, that are not the same in all results, in their order."""
    keys = dict.fromkeys(key for result in results for key in result.params)
    return [key for key in keys if len({str(r.params.get(key)) for r in results}) > 1]
