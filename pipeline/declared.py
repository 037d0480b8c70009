"""The part of params.yaml that a DVC stage has declared: what a stage does not declare it cannot read."""

import os
import re
from typing import Any

from pipeline.errors import InputError
from pipeline.params import Params, load_params, read_yaml


class Declared(dict[str, Any]):
    """The parameters that a stage declares in dvc.yaml; any other key is a KeyError, so that none goes untracked."""

    def __missing__(self, key: str) -> Any:
        raise KeyError(f"{key} is not among this stage's params in dvc.yaml: declare it there")


def stage_name(stage: str) -> str:
    """Return the stage and its cell, e.g. train@innerpissa-0, as DVC names it."""
    return os.environ.get("DVC_STAGE", stage)


def stage_params(stage: str, item: dict[str, str] | None = None) -> Declared:
    """Validate params.yaml as a whole and return what `stage` declares of it, typed."""
    params = load_params()
    try:
        declared = read_yaml("dvc.yaml")["stages"][stage].get("params", [])
    except (KeyError, TypeError, AttributeError):
        raise InputError(f"dvc.yaml has no stage {stage!r}: restore it by `git checkout dvc.yaml`") from None
    fields = {"model": params.model, "evalset": params.evalset} | {f"item.{k}": v for k, v in (item or {}).items()}
    keys = [re.sub(r"\$\{([a-z._]+)\}", lambda match: fields[match[1]], key) for key in declared]
    return Declared({key: lookup(params, key) for key in keys})


def lookup(params: Params, key: str) -> Any:
    value: Any = params
    for part in key.split("."):
        value = value[part] if isinstance(value, dict) else getattr(value, part)
    return value
