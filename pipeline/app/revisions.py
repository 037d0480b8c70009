"""Results of other revisions: DVC experiments and commits are read from git, the workspace from its
files.
"""

import io
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from ruamel.yaml import YAML

from pipeline.report.manifest import cells
from pipeline.study.store import flatten
from pipeline.support.errors import InputError

WORKSPACE = "workspace"


@dataclass(frozen=True)
class Result:
    """What one revision found."""

    name: str
    params: dict[str, Any]
    """Of params.yaml, flat: a dotted key -> value."""
    arms: pl.DataFrame
    equal_cost: pl.DataFrame


def git(*arguments: str) -> str | None:
    found = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return found.stdout if found.returncode == 0 else None


def resolve(name: str) -> str:
    """Return the commit of an experiment's name or of a git revision; an experiment comes first, as
    with DVC.
    """
    listed = git("for-each-ref", "--format=%(refname) %(objectname)", "refs/exps") or ""
    refs = dict(line.split() for line in listed.splitlines())
    commits = {sha for ref, sha in refs.items() if ref.count("/") == 4 and ref.endswith(f"/{name}")}
    if len(commits) > 1:
        short = ", ".join(sorted(sha[:10] for sha in commits))
        raise InputError(
            f"{len(commits)} experiments are called {name!r}, on different commits: name one by "
            f"its hash ({short})"
        )
    found = (
        commits.pop()
        if commits
        else (git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}") or "").strip()
    )
    if not found:
        known = sorted({ref.rsplit("/", 1)[1] for ref in refs if ref.count("/") == 4})
        raise InputError(
            f"{name!r} is no experiment and no git revision: there are "
            f"{', '.join([WORKSPACE, *known])} and all commits"
        )
    return found


def read_text(name: str, path: str) -> str | None:
    if name == WORKSPACE:
        return Path(path).read_text() if Path(path).exists() else None
    return git("show", f"{resolve(name)}:{path}")


def read_result(name: str) -> Result:
    texts = {
        path: read_text(name, path)
        for path in ("params.yaml", "reports/arms.csv", "reports/equal_cost.csv")
    }
    for path, text in texts.items():
        if text is None:
            raise InputError(
                f"{name} has no {path}: name a finished run of this pipeline (`dvc exp list`)"
            )
    params = YAML(typ="safe").load(texts["params.yaml"])
    check_locked(name, params, read_text(name, "dvc.lock"))
    arms, equal = (
        pl.read_csv(io.StringIO(texts[f"reports/{table}.csv"])) for table in ("arms", "equal_cost")
    )
    return Result(name, dict(flatten(params)), arms, equal)


def check_locked(name: str, params: dict[str, Any], lock: str | None) -> None:
    """Refuse results that are not of the parameters beside them: a failed experiment keeps those of
    its baseline.
    """
    if lock is None:
        return
    stages = YAML(typ="safe").load(lock)["stages"]
    study = cells(
        [s for s in stages if "@" not in s], params["methods"], params["baselines"], params["seeds"]
    )
    for stage in sorted(study & stages.keys()):
        for key, value in stages[stage].get("params", {}).get("params.yaml", {}).items():
            if look_up(params, key) != value:
                raise InputError(
                    f"{name}: the results are of another {key} than its params.yaml: it failed, or "
                    "needs `dvc repro`"
                )


def look_up(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def differing(results: list[Result]) -> Iterator[str]:
    """Yield the parameters, flat, that are not the same in all results, in their order."""
    for key in dict.fromkeys(key for result in results for key in result.params):
        if len({str(result.params.get(key)) for result in results}) > 1:
            yield key
