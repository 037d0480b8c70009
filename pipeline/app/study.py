"""A named study in a workspace of its own: params.yaml and the results of the checkout stay."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.study.params import Params
from pipeline.support.errors import InputError
from pipeline.support.files import new_folder, visible
from pipeline.support.paths import REPORTS
from pipeline.support.section import parse, read_yaml

STUDIES = Path("data/studies")
WORKSPACES = Path(".dvc/tmp/studies")
SOURCES = ("pipeline", "data/raw", "models/reference", ".dvc/config", ".dvcignore", "dvc.yaml")
SHOWN = Path("tables/equal_cost.md")  # effects with their intervals
KEPT = (
    "arms.csv", "differences.csv", "equal_cost.csv", "metrics.json", "report.html", "figures",
    "tables",
)  # fmt: skip


def main(name: str, jobs: int | None, keep: str | None, overrides: list[str]) -> None:
    """Run data/studies/<name>.yaml, print its table, copy its results to the folder `keep`.

    Overrides are those of `dvc exp run -S`. Raises InputError for a study that is not there or not
    valid. What a killed run had stays.
    """
    known = sorted(file.stem for file in visible(STUDIES, "*.yaml"))
    if name not in known:
        raise InputError(f"there is no study {name!r} in {STUDIES}: take {', '.join(known)}")
    params = merged(read_yaml("params.yaml"), read_yaml(STUDIES / f"{name}.yaml"))
    if overrides:
        with explained(overrides):
            params = overridden(params, overrides)
    parse(Params, params, " ".join([str(STUDIES / f"{name}.yaml"), *settings(overrides)]))
    folder = prepare(WORKSPACES / name, params)
    command = [sys.executable, "-m", "pipeline", "repro"] + (["--jobs", str(jobs)] if jobs else [])
    own = {key: value for key, value in os.environ.items() if not key.startswith("DVC_")}
    own["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{own.get('PATH', '')}"
    own.setdefault("INNERPISSA_TRACKING", "off")
    if code := subprocess.run(command, cwd=folder, env=own).returncode:
        sys.exit(code)
    print((folder / REPORTS / SHOWN).read_text(encoding="utf-8"))
    print(f"the whole page: {folder / REPORTS / 'report.html'}")
    if keep:
        with new_folder(Path(keep)) as new:
            for each in KEPT:
                copy(folder / REPORTS / each, new / each)
            copy(folder / "params.yaml", new / "params.yaml")


def merged(whole: Any, changes: Any) -> Any:
    """Return a tree with some values replaced; mappings are merged, all else is replaced."""
    if not (isinstance(whole, dict) and isinstance(changes, dict)):
        return changes
    return whole | {key: merged(whole.get(key), value) for key, value in changes.items()}


def settings(overrides: list[str]) -> list[str]:
    return [word for override in overrides for word in ("-S", override)]


@contextmanager
def explained(overrides: list[str]) -> Iterator[None]:
    """Say what is wrong with overrides, and how they are written."""
    from dvc.exceptions import DvcException
    from hydra.errors import HydraException

    try:
        yield
    except (DvcException, HydraException) as error:
        said = str(error.__cause__ or error).splitlines()[0]
        known = "`python -m pipeline params` lists the keys"
        told = f"{' '.join(settings(overrides))}: {said}"
        raise InputError(f"{told}: write -S KEY=VALUE or -S KEY=VALUE,VALUE; {known}") from None


def overridden(params: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Return parameters as DVC would change them."""
    from dvc.utils.hydra import apply_overrides

    with tempfile.TemporaryDirectory() as folder:
        file = write(params, Path(folder) / "params.yaml")
        apply_overrides(file, overrides)
        return read_yaml(file)


def write(params: dict[str, Any], path: Path) -> Path:
    with path.open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump(params, file)
    return path


def prepare(folder: Path, params: dict[str, Any]) -> Path:
    """Bring the code, the inputs and params.yaml to a workspace; results of before stay there."""
    for source in SOURCES:
        if Path(source).is_dir():
            shutil.rmtree(folder / source, ignore_errors=True)
        copy(Path(source), folder / source)
    # The workspace sees the local model and evaluation set that the parameters name.
    named = params["models"][params["model"]], params["evalsets"].get(params["evalset"], {})
    for source in filter(None, (section.get("source") for section in named)):
        link = folder / source
        if Path(source).exists() and not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(Path(source).resolve())
    local = folder / ".dvc/config.local"
    cache = Path(".dvc/cache").resolve()  # what another study has run is not run again
    local.write_text(f"[core]\n    no_scm = true\n[cache]\n    dir = {cache}\n", encoding="utf-8")
    write(params, folder / "params.yaml")
    return folder


def copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
