"""Find a saved adapter, and open it with the base it was made for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

from transformers import PreTrainedModel

from pipeline.app.use import fingerprint, load_base
from pipeline.lm.base import Base
from pipeline.lm.sources import locate
from pipeline.steering.base import Steering
from pipeline.steering.compose import Composed
from pipeline.steering.saved import base_name, check_fits, load_steering, read_about
from pipeline.study.params import load_params
from pipeline.support.errors import InputError
from pipeline.support.paths import resolve_source
from pipeline.support.sections import ModelParams

Source = str | Path | Sequence[str | Path]
FILES = ["*.json", "*.safetensors"]  # of an adapter on the hub: nothing that could run code


@dataclass(frozen=True)
class Opened:
    """An adapter, or several as one, with its base; it unpacks to model, tokenizer and adapter."""

    base: Base
    adapter: Steering

    def __iter__(self) -> Iterator[Any]:
        return iter((self.base.model, self.base.tokenizer, self.adapter))


@overload
def load_adapter(
    source: Source, base: Base | PreTrainedModel, revision: str | None = None
) -> Steering: ...


@overload
def load_adapter(
    source: Source, base: str | None = None, revision: str | None = None,
    quantisation: str | None = None, dtype: str | None = None, device: str = "auto",
    weights: Sequence[float] = (), quantization: str | None = None,
) -> Opened: ...  # fmt: skip


def load_adapter(
    source: Source, base: Base | PreTrainedModel | str | None = None, revision: str | None = None,
    quantisation: str | None = None, dtype: str | None = None, device: str = "auto",
    weights: Sequence[float] = (), quantization: str | None = None,
) -> Steering | Opened:  # fmt: skip
    """Return a saved adapter, from a folder or a hub id; of a list all at once, by `weights`.

    With a loaded base it is the adapter alone, on the model's device. Else its own base is loaded,
    of several adapters the first's. A name (an id of params.yaml, a folder or a hub id) loads that
    one instead. So `model, tokenizer, adapter = load_adapter(folder)`. `quantisation` (also spelt
    `quantization`) and `dtype` are those of `load_base`; without them they are as in the fit.
    Raises InputError where something cannot be found or read, and for another base than its own.
    """
    sources = [source] if isinstance(source, str | Path) else source
    folders = [find_adapter(one, revision) for one in sources]
    if base is not None and not isinstance(base, str):
        return composed([attachable(folder, base) for folder in folders], weights)
    own = open_base(folders[0], base, device, quantisation or quantization, dtype)
    prefix = read_about(folders[0]).get("answer_prefix", own.answer_prefix)
    own = replace(own, answer_prefix=prefix)
    return Opened(own, composed([attachable(folder, own) for folder in folders], weights))


def find_adapter(source: str | Path, revision: str | None = None) -> Path:
    """Return an adapter's folder; from the hub only its JSON and tensors are downloaded."""
    return locate(str(source), revision, FILES, "adapter")


def composed(adapters: list[Steering], weights: Sequence[float]) -> Steering:
    """Return the one adapter, or several as one: at c each is attached at c times its weight."""
    if not adapters or (weights and len(weights) != len(adapters)):
        raise InputError(
            f"{len(adapters)} adapters and {len(weights)} weights do not go together: name one or "
            "more adapters, and a weight for each or none at all"
        )
    if len(adapters) == 1 and not weights:
        return adapters[0]
    both = Composed(list(zip(adapters, weights or [1.0] * len(adapters), strict=True)))
    both.budget_reached = not any(one.budget_reached is False for one in adapters)
    both.sign = next((one.sign for one in adapters if one.sign and not one.sign.decided), None)
    return both


def attachable(folder: Path, base: Base | PreTrainedModel) -> Steering:
    """Return a saved adapter on the model's device; refuse another base than its own."""
    model = base.model if isinstance(base, Base) else base
    own = base.fingerprint if isinstance(base, Base) else fingerprint(base)
    steering = load_steering(folder, own, model.device)
    check_fits(model, steering, folder)
    return steering


def open_base(
    folder: Path, named: str | None, device: str, quantisation: str | None, dtype: str | None
) -> Base:
    """Load the base of a saved adapter, with its template options where params.yaml lists it."""
    about = read_about(folder)
    held = quantisation or about.get("quantisation", "none")
    if not named and "model" not in about:
        said = f"{folder}/steering.json does not say which model it was made for"
        raise InputError(f"{said}: name the base with --model")
    if entry := listed(named or about["model"]):
        own = dtype or entry.dtype, device, entry.revision, held, entry.template_options
        return load_base(entry.source, *own)
    if named:
        return load_base(named, dtype, device, quantisation=held)
    source, commit = about.get("source"), about.get("revision")
    if not source or not (commit or resolve_source(source)):
        raise InputError(
            f"{folder} was made for {base_name(about)}, which is neither in params.yaml nor a "
            "folder here: name its folder or hub id as the base (--model)"
        )
    return load_base(source, dtype, device, commit, held)


def listed(model: str) -> ModelParams | None:
    """Return the entry of params.yaml, where there is one, that has this id or this source."""
    models = load_params().models if Path("params.yaml").exists() else {}
    return next((entry for name, entry in models.items() if model in (name, entry.source)), None)
