"""Open a model and an adapter as the command line names them."""

from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.app.use import find_adapter, load_adapter, load_base
from pipeline.steering.base import Steering
from pipeline.study.params import load_params
from pipeline.study.sections import ModelParams
from pipeline.support.errors import InputError
from pipeline.support.files import read_json


class Opened(NamedTuple):
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    adapter: Steering
    options: dict[str, Any]
    """Further variables of the chat template."""
    source: str
    """The base's folder or hub id."""
    revision: str | None


def open_adapter(
    adapter: str, base: str | None, device: str, quantisation: str | None = None
) -> Opened:
    """Load an adapter, a folder or a hub id, and the base it was made for.

    `base` is an id of params.yaml, a folder or a hub id; without one it is the id recorded with the
    adapter. Without `quantisation` the base is held as it was when the adapter was fitted.
    """
    folder = find_adapter(adapter)
    name = base or recorded_model(folder)
    entry = listed(name)
    if not entry and not base:
        raise InputError(
            f"{adapter} was made for model {name!r}, which params.yaml does not list: name the "
            "base with --model"
        )
    source, dtype, revision = (
        (entry.source, entry.dtype, entry.revision) if entry else (name, None, None)
    )
    model, tokenizer, _ = load_base(
        source,
        dtype,
        device,
        revision,
        quantisation or read_about(folder).get("quantisation", "none"),
    )
    return Opened(
        model,
        tokenizer,
        load_adapter(folder, model),
        entry.template_options if entry else {},
        source,
        revision,
    )


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
