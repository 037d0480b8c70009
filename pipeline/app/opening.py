"""Open a model and an adapter as the command line names them."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.app.use import find_adapter, load_adapter, load_base
from pipeline.lm.base import Base
from pipeline.steering.base import Steering
from pipeline.study.params import load_params
from pipeline.support.errors import InputError
from pipeline.support.files import read_json
from pipeline.support.sections import ModelParams


class Opened(NamedTuple):
    base: Base
    adapter: Steering


def open_adapter(
    adapter: str, model: str | None, device: str, quantisation: str | None = None
) -> Opened:
    """Load an adapter, a folder or a hub id, and the base it was made for.

    `model` is an id of params.yaml, a folder or a hub id; without one it is the id recorded with
    the adapter. Without `quantisation` the base is held as it was when the adapter was fitted.
    """
    folder = find_adapter(adapter)
    name = model or recorded_model(folder)
    entry = listed(name)
    if not entry and not model:
        raise InputError(
            f"{adapter} was made for model {name!r}, which params.yaml does not list: name the "
            "base with --model"
        )
    held = quantisation or read_about(folder).get("quantisation", "none")
    if entry:
        base = load_base(entry.source, entry.dtype, device, entry.revision, held)
        base = replace(base, options=entry.template_options)
    else:
        base = load_base(name, device=device, quantisation=held)
    return Opened(base, load_adapter(folder, base))


def read_about(folder: Path) -> dict[str, Any]:
    """Return what is recorded with an adapter."""
    file = folder / "steering.json"
    if not file.exists():
        raise InputError(f"{folder} holds no steering.json: fit the method first (`dvc repro`)")
    try:
        return dict(read_json(file))
    except (TypeError, ValueError, InputError):
        raise InputError(f"{file} is not valid JSON of an adapter: fit the method again") from None


def recorded_model(folder: Path) -> str:
    try:
        return read_about(folder)["model"]
    except KeyError:
        raise InputError(
            f"{folder}/steering.json does not say which model it was made for: name the base with "
            "--model"
        ) from None


def listed(model: str) -> ModelParams | None:
    """Return the entry of params.yaml, where there is one, that has this id or this source."""
    models = load_params().models if Path("params.yaml").exists() else {}
    return next((entry for name, entry in models.items() if model in (name, entry.source)), None)
