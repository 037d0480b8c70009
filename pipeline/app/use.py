"""Use a fitted adapter: load a base model, load the adapter, attach it at a coefficient.

model, tokenizer, fingerprint = load_base("models/reference")
adapter = load_adapter("models/adapters/innerpissa/seed0", model)
with steer(model, adapter, 1.0):
    model.generate(**tokenizer("Who are you?", return_tensors="pt"))
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import get_args
from weakref import WeakKeyDictionary

import torch
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from pipeline.lm.load import describe, load_model, load_tokenizer, locate, weights_hash
from pipeline.steering.base import Attachable, Coefficient, Steering, check_fits, load_steering
from pipeline.study.sections import ModelParams, Quantisation
from pipeline.support.errors import InputError

FILES = ["*.json", "*.safetensors"]  # of an adapter on the hub: nothing that could run code
DTYPES = ("float32", "bfloat16", "float16")
KNOWN: WeakKeyDictionary[PreTrainedModel, str] = WeakKeyDictionary()


def load_base(
    source: str,
    dtype: str | None = None,
    device: str = "auto",
    revision: str | None = None,
    quantisation: str = "none",
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    """Return the frozen model, its tokenizer (padding left) and its fingerprint, the sha256 of its
    weights.

    `source` is a folder in the hub's layout or a hub id; without a `dtype` the model runs in the
    one it was saved in. The fingerprint is of the files, so it is the same for every `quantisation`
    (none, 8bit, 4bit). Raises InputError where the model cannot be found or used, or its tokenizer
    has no chat template.
    """
    if dtype not in (None, *DTYPES):
        raise InputError(
            f"dtype {dtype!r} is unknown: take {', '.join(DTYPES)}, or none for the one it was "
            "saved in"
        )
    if quantisation not in (kinds := get_args(Quantisation)):
        raise InputError(f"quantisation {quantisation!r} is unknown: take {', '.join(kinds)}")
    folder = locate(source, revision)
    section = ModelParams(
        source=source, revision=revision, dtype="float32", batch_size=1, template_options={}
    )
    manifest = describe("", section, quantisation)
    saved = AutoConfig.from_pretrained(folder).dtype or torch.float32
    model = load_model(manifest, dtype or str(saved).removeprefix("torch."), device)
    KNOWN[model] = manifest["weights_sha256"]
    return model, load_tokenizer(manifest), KNOWN[model]


def fingerprint(model: PreTrainedModel) -> str:
    """Return the sha256 of the weights that the model was loaded from, by us or by
    `from_pretrained`.
    """
    if model not in KNOWN:
        source = model.config._name_or_path
        if not source:
            raise InputError(
                "the model was loaded from no folder or hub id, so its weights are unknown: take "
                "load_base"
            )
        KNOWN[model] = weights_hash(locate(source, getattr(model.config, "_commit_hash", None)))
    return KNOWN[model]


def load_adapter(
    source: str | Path, model: PreTrainedModel, revision: str | None = None
) -> Steering:
    """Return a saved adapter on the model's device, from a folder or a hub id.

    Raises InputError where it cannot be found or read, and for a model with another fingerprint
    than its own base.
    """
    folder = find_adapter(source, revision)
    steering = read_adapter(folder, fingerprint(model), model.device)
    check_fits(model, steering, folder)
    return steering


def read_adapter(folder: Path, weights_sha256: str, device: torch.device) -> Steering:
    """Return a saved adapter of the base with these weights; refuse what is none."""
    try:
        return load_steering(folder, weights_sha256, device)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{folder} was not saved by this version of the project ({error!r}): fit the method "
            "again"
        ) from None


def find_adapter(source: str | Path, revision: str | None = None) -> Path:
    """Return the folder of a local adapter, or of a hub one's snapshot; only its JSON and tensors
    are downloaded.
    """
    return locate(str(source), revision, FILES, "adapter")


def steer(
    model: PreTrainedModel, adapter: Attachable, coefficient: Coefficient | Sequence[float]
) -> AbstractContextManager[None]:
    """Attach an adapter for a `with` block, at one coefficient or at one per row of every batch
    [b].

    Coefficient 0 is the base model, bit for bit. Prompting changes the messages, not the model: use
    its `rewrite`. Raises InputError for a coefficient that is not finite.
    """
    given = torch.tensor(coefficient) if isinstance(coefficient, Sequence) else coefficient
    if not torch.as_tensor(given).isfinite().all():
        raise InputError(
            f"coefficient {coefficient} cannot be used: give a finite number, or one per row"
        )
    return adapter.steer(model, given)
