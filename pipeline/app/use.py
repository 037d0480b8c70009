"""Load a base model, and attach an adapter to it at a coefficient.

model, tokenizer, adapter = load_adapter("models/adapters/innerpissa/seed0")  # opening.py
with steer(model, adapter, 1.0):
    model.generate(**tokenizer("Who are you?", return_tensors="pt"))
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, get_args

import torch
from transformers import AutoConfig, PreTrainedModel

from pipeline.lm.base import Base
from pipeline.lm.load import describe, load_model, load_tokenizer
from pipeline.lm.sources import locate, weights_hash
from pipeline.steering.base import Attachable
from pipeline.steering.hooks import Coefficient, attached, check_acts
from pipeline.support.errors import InputError
from pipeline.support.sections import ModelParams, Quantisation

DTYPES = ("float32", "bfloat16", "float16")


def load_base(
    source: str, dtype: str | None = None, device: str = "auto", revision: str | None = None,
    quantisation: str = "none", template_options: dict[str, Any] | None = None,
) -> Base:  # fmt: skip
    """Return the frozen model with its tokenizer (padding left) and what identifies its weights.

    `source` is a folder in the hub's layout, a GGUF file or a hub id. Without a `dtype` the model
    runs in the one it was saved in. `quantisation` is none, 8bit or 4bit. `template_options` are
    further variables of its chat template. Raises InputError where the model cannot be found or
    used, or its tokenizer has no chat template.
    """
    if dtype not in (None, *DTYPES):
        raise InputError(
            f"dtype {dtype!r} is unknown: take {', '.join(DTYPES)}, or none for the one it was "
            "saved in"
        )
    if quantisation not in (kinds := get_args(Quantisation)):
        raise InputError(f"quantisation {quantisation!r} is unknown: take {', '.join(kinds)}")
    options = template_options or {}
    unused: dict[str, Any] = {"dtype": "float32", "batch_size": 1, "template_options": options}
    manifest = describe("", ModelParams(source=source, revision=revision, **unused), quantisation)
    saved = AutoConfig.from_pretrained(locate(source, revision)).dtype or torch.float32
    model = load_model(manifest, dtype or str(saved).removeprefix("torch."), device)
    return Base(manifest, model, load_tokenizer(manifest), options)


def fingerprint(model: PreTrainedModel) -> str:
    """Return the sha256 of the weights that `from_pretrained` loaded the model from."""
    source = model.config._name_or_path
    if not source:
        said = "the model was loaded from no folder or hub id, so its weights are unknown"
        raise InputError(f"{said}: take load_base")
    return weights_hash(locate(source, getattr(model.config, "_commit_hash", None)))


def steer(
    model: PreTrainedModel, adapter: Attachable, coefficient: Coefficient | Sequence[float],
    raw: bool = False,
) -> AbstractContextManager[None]:  # fmt: skip
    """Attach an adapter for a `with` block, at one coefficient or one per row of each batch [b].

    At 1 and at -1 every method costs the same (KL divergence from the base model). With `raw` the
    coefficient is as trained or extracted. 0 is the base model, bit for bit. Prompting changes the
    messages, not the model: use its `rewrite`. Inside of the block compiled code runs eagerly.
    Raises InputError for a coefficient that is not finite, and for a model on which the adapter
    would not act.
    """
    given = numbers(coefficient)
    try:
        hooks = adapter.hooks(model, given if raw else adapter.unit.raw(given))
    except AttributeError as error:
        said = f"{type(model).__name__} has not the adapter's modules ({error})"
        remedy = "pass the base model itself, as load_base gives it"
        raise InputError(f"{said}: {remedy}") from None
    check_acts(model, hooks, len(given) if isinstance(given, torch.Tensor) and given.ndim else 1)
    return attached(model, hooks)


def numbers(coefficient: Any) -> Coefficient:
    """Return one finite number or a tensor of one or more [b]; InputError for anything else."""
    try:
        given = torch.as_tensor(coefficient, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        given = torch.tensor([])
    if given.ndim > 1 or not given.numel() or not given.isfinite().all():
        raise InputError(
            f"coefficient {coefficient!r} cannot be used: give a finite number, or one per row"
        )
    return given if given.ndim else float(coefficient)
