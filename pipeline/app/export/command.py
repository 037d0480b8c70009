"""`python -m pipeline export`: one adapter in one form, whole or not at all."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call
from transformers import PreTrainedModel

from pipeline.app.export.card import write_card
from pipeline.app.export.names import text_only
from pipeline.app.export.reload import Request, in_fresh_process
from pipeline.app.export.usage import FORMS, base_arguments
from pipeline.app.export.vectors import by_layer, named, vectors, write_gguf, write_vectors
from pipeline.app.export.weights import baked, updates
from pipeline.app.opening import Opened, find_adapter, open_adapter, read_about
from pipeline.app.use import steer
from pipeline.lm.forward import token_positions
from pipeline.lm.load import folder_of
from pipeline.lm.prompts import open_turn
from pipeline.steering.saved import adapter_hash
from pipeline.support.errors import InputError
from pipeline.support.files import new_folder, write_json

RECORD = "export.json"  # marks a folder as an export, which --force may replace
QUESTIONS = ["Who are you?", "Is it right to tell a friend a small lie?", "What is in the box?"]


class Expected(NamedTuple):
    """Arguments of the model, and its logits [b, t, v] for them, as the base and steered."""

    inputs: dict[str, Tensor]
    plain: Tensor
    steered: Tensor


def main(
    adapters: list[str],
    to: str,
    coefficient: float,
    out: str,
    base: str | None,
    force: bool,
    weights: Sequence[float] = (),
) -> None:
    """Export an adapter, a folder or a hub id, or several as one; say what was written."""
    if to not in FORMS:
        raise InputError(f"--to {to!r} is unknown: take {', '.join(FORMS)}")
    if not math.isfinite(coefficient):
        raise InputError(f"--coefficient {coefficient} cannot be used: give a finite number")
    folders, target = [find_adapter(adapter) for adapter in adapters], Path(out)
    if to == "hub" and (weights or len(folders) > 1):
        raise InputError(
            "--to hub writes one adapter without a weight: export each by itself, and give "
            "load_adapter the list of them"
        )
    check_target(target, force)
    about = together([read_about(folder) for folder in folders], weights)
    with new_folder(target) as new:
        request, expected = write(new, folders, to, coefficient, base, about, weights)
        write_card(new, folders, about, to, coefficient, {})
        check = compare(in_fresh_process(request, expected.inputs), expected)
        hashes = [adapter_hash(folder) for folder in folders]
        own = {"adapter_sha256": hashes[0] if len(hashes) == 1 else hashes}
        write_json(new / RECORD, {"to": to, "coefficient": coefficient, **own, "check": check})
        write_card(new, folders, about, to, coefficient, check)
    print(
        f"{target}: {FORMS[to]}" + "".join(f"; {name} {value:.2g}" for name, value in check.items())
    )


def check_target(target: Path, force: bool) -> None:
    """Refuse a folder that holds anything, except an earlier export where that may be replaced."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not (target / RECORD).exists():
        raise InputError(f"{target} exists and is no earlier export: name another folder")
    if not force:
        raise InputError(
            f"{target} exists already: name another folder, or add --force to replace it"
        )


def together(abouts: list[dict[str, Any]], weights: Sequence[float]) -> dict[str, Any]:
    """Return what is recorded with the adapter, or with several what the first one's base is."""
    if len(abouts) == 1 and not weights:
        return abouts[0]
    shares = weights or [1.0] * len(abouts)
    names = [f"{share:g} {about.get('method')}" for share, about in zip(shares, abouts)]  # noqa: B905
    behaviours = dict.fromkeys(about.get("behaviour") or "unnamed" for about in abouts)
    own = {"seed", "summary", "metadata", "dose"}
    known = {key: value for key, value in abouts[0].items() if key not in own}
    methods = [about.get("method") for about in abouts]
    return known | {
        "methods": methods, "method": " + ".join(names), "behaviour": " and ".join(behaviours),
        "metadata": {},
    }  # fmt: skip


def write(
    new: Path,
    folders: list[Path],
    to: str,
    coefficient: float,
    base: str | None,
    about: dict[str, Any],
    weights: Sequence[float],
) -> tuple[Request, Expected]:
    """Write one form; return how to read it back, and what that must give."""
    held = None if to == "hub" else "none"
    opened = open_adapter(folders, base, "cpu", held, weights=weights)
    manifest, model, adapter = opened.base.manifest, opened.base.model, opened.adapter
    about |= {key: about.get(key, manifest[key]) for key in ("source", "revision")}
    about["text_only"], raw = text_only(opened.base), float(adapter.unit.raw(coefficient))
    match to:
        case "hub":
            copy_adapter(new, folders[0])
        case "vector":
            found = named(vectors(adapter, raw), opened.base)
            write_vectors(new / "vector.safetensors", found, described(about, coefficient))
        case "gguf":
            layers = by_layer(vectors(adapter, raw), model)
            write_gguf(new / "vector.gguf", layers, model.config.get_text_config().model_type)
        case "bake":
            changed = model.state_dict() | baked(adapter, model, raw)
            # The names of a multimodal checkpoint would fit no text decoder.
            original = not about["text_only"]
            model.save_pretrained(new, state_dict=changed, save_original_format=original)
            opened.base.tokenizer.save_pretrained(new)
        case "lora":
            from pipeline.app.export.lora import wrapped, write_lora  # peft takes seconds to import

            with wrapped(model, updates(adapter, model, raw)) as peft_model:
                write_lora(new, peft_model, opened.base)
    dtype = str(model.dtype).removeprefix("torch.")
    place = str(folder_of(manifest).resolve())
    request = Request(str(new.resolve()), place, base_arguments(about), coefficient, dtype)
    return request, expectation(opened, coefficient)


def described(about: dict[str, Any], coefficient: float) -> dict[str, str]:
    known = {key: about[key] for key in ("method", "weights_sha256")}
    return known | {"coefficient": f"{coefficient:g}"}


def copy_adapter(new: Path, folder: Path) -> None:
    for name in ("steering.safetensors", "steering.json", "certificate.json"):
        if (folder / name).exists():
            shutil.copyfile(folder / name, new / name)


def expectation(opened: Opened, coefficient: float) -> Expected:
    inputs, model = questions(opened, coefficient), opened.base.model
    with steer(model, opened.adapter, coefficient):
        steered = plain_logits(model, inputs)
    return Expected(inputs, plain_logits(model, inputs), steered)


def compare(found: Tensor, expected: Expected) -> dict[str, float]:
    """Return how far read logits are from the steered ones; refuse more than rounding explains."""
    moved, error = largest(expected.plain, expected.steered), math.inf
    if found.shape == expected.steered.shape:
        error = largest(found, expected.steered)
    rounding = max(1e-4, 4 * torch.finfo(expected.steered.dtype).eps)
    if not error <= 0.05 * moved + rounding * expected.steered.abs().max().item():
        raise InputError(
            "read back from disk, the export does not steer as the adapter does (its logits are "
            f"{error:.2g} off, steering moves them by {moved:.2g}): take another form with --to"
        )
    return {"largest change of a logit": moved, "largest error of a logit": error}


def questions(opened: Opened, coefficient: float) -> dict[str, Tensor]:
    """Return a small left-padded batch of chats, as the adapter puts them, for the model."""
    base, rewrite = opened.base, opened.adapter.rewrite
    chats = [rewrite([{"role": "user", "content": text}], coefficient) for text in QUESTIONS]
    ids, mask = base.encode([open_turn(base.tokenizer, chat, base.options) for chat in chats])
    return {"input_ids": ids, "attention_mask": mask, "position_ids": token_positions(mask)}


@torch.no_grad()
def plain_logits(
    model: PreTrainedModel, inputs: dict[str, Tensor], changed: dict[str, Tensor] | None = None
) -> Tensor:
    """Return logits [b, t, v], with some parameters exchanged for this call alone."""
    return functional_call(model, changed or {}, args=(), kwargs=inputs).logits


def largest(first: Tensor, second: Tensor) -> float:
    return (first.float() - second.float()).abs().max().item()
