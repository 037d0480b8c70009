"""The part of params.yaml that a DVC stage has declared; it can read nothing else."""

import re
from pathlib import Path
from typing import Any, cast

from pipeline.study.params import Params, load_params
from pipeline.support.errors import InputError
from pipeline.support.section import read_yaml


class Declared(dict[str, Any]):
    """The parameters that a stage declares in dvc.yaml, by dotted key."""

    def view(self) -> Params:
        """Return them in the form of `Params`; reading any other is refused."""
        return cast(Params, View(self))


class View:
    """Some declared parameters, read as attributes and, where ids are keys, as items."""

    def __init__(self, declared: Declared, place: str = ""):
        self._declared, self._place = declared, place

    def __getattr__(self, name: str) -> Any:
        key = f"{self._place}{name}"
        if key in self._declared:
            return self._declared[key]
        if any(other.startswith(f"{key}.") for other in self._declared):
            return View(self._declared, f"{key}.")
        raise KeyError(f"{key} is not among this stage's params in dvc.yaml: declare it there")

    __getitem__ = __getattr__


def stage_params(stage: str, item: dict[str, str] | None = None) -> Declared:
    """Validate params.yaml as a whole and return what `stage` declares of it, typed."""
    params = load_params()
    keys = declared(stage, "params", params, item)
    return Declared({key: lookup(params, key) for key in keys})


def stage_paths(stage: str, item: dict[str, str] | None = None) -> list[Path]:
    """Return the dependencies that `stage` declares, files and folders."""
    return [Path(dep) for dep in declared(stage, "deps", load_params(), item)]


def stage_files(stage: str, item: dict[str, str] | None = None) -> list[Path]:
    """Return every file among a stage's dependencies that exists, in the order of their names."""
    files = {
        file
        for path in stage_paths(stage, item)
        for file in (path.rglob("*") if path.is_dir() else [path])
        if file.is_file()
    }
    return sorted(file for file in files if "__pycache__" not in file.parts)


def declared(stage: str, field: str, params: Params, item: dict[str, str] | None) -> list[str]:
    """Return a list of dvc.yaml with its ${...} filled in."""
    cell = {f"item.{key}": value for key, value in (item or {}).items()}

    def fill(match: re.Match) -> str:
        return cell[match[1]] if match[1] in cell else str(lookup(params, match[1]))

    try:
        entries = read_yaml("dvc.yaml")["stages"][stage].get(field, [])
    except (KeyError, TypeError, AttributeError):
        said = f"dvc.yaml has no stage {stage!r}"
        raise InputError(f"{said}: restore it by `git checkout dvc.yaml`") from None
    return [re.sub(r"\$\{([a-z._]+)\}", fill, entry) for entry in entries]


def lookup(params: Params, key: str) -> Any:
    value: Any = params
    for part in key.split("."):
        value = value[part] if isinstance(value, dict) else getattr(value, part)
    return value
