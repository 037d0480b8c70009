"""`python -m pipeline export`: one adapter in one form, whole or not at all."""

import math
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from transformers import PreTrainedModel

from pipeline.app.export.card import write_card
from pipeline.app.export.usage import FORMS
from pipeline.app.export.vectors import by_layer, vectors, write_gguf, write_vectors
from pipeline.app.export.weights import baked, updates
from pipeline.app.opening import Opened, open_adapter, read_about
from pipeline.app.use import find_adapter, read_adapter, steer
from pipeline.lm.base import Base
from pipeline.lm.forward import token_positions
from pipeline.lm.prompts import open_turn
from pipeline.steering.saved import adapter_hash
from pipeline.support.errors import InputError
from pipeline.support.files import new_folder, write_json

RECORD = "export.json"  # marks a folder as an export, which --force may replace
QUESTIONS = ["Who are you?", "Is it right to tell a friend a small lie?", "What is in the box?"]


def main(
    adapter: str, to: str, coefficient: float, out: str, base: str | None, force: bool
) -> None:
    """Export an adapter, a folder or a hub id, and say what was written."""
    if to not in FORMS:
        raise InputError(f"--to {to!r} is unknown: take {', '.join(FORMS)}")
    if not math.isfinite(coefficient):
        raise InputError(f"--coefficient {coefficient} cannot be used: give a finite number")
    folder, target = find_adapter(adapter), Path(out)
    check_target(target, force)
    about = read_about(folder)
    with new_folder(target) as new:
        check = write(new, folder, to, coefficient, base, about)
        write_json(
            new / RECORD,
            {
                "to": to,
                "coefficient": coefficient,
                "adapter_sha256": adapter_hash(folder),
                "check": check,
            },
        )
        write_card(new, folder, about, to, coefficient, check)
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


def write(
    new: Path, folder: Path, to: str, coefficient: float, base: str | None, about: dict[str, Any]
) -> dict[str, float]:
    """Write one form; return how far a model's logits are from the steered one's."""
    if to in ("hub", "vector"):  # the adapter's own files say it all
        steering = read_adapter(folder, about.get("weights_sha256", ""), torch.device("cpu"))
        if to == "hub":
            copy_adapter(new, folder)
        else:
            named = {
                "method": about["method"],
                "coefficient": f"{coefficient:g}",
                "weights_sha256": about["weights_sha256"],
            }
            write_vectors(new / "vector.safetensors", vectors(steering, coefficient), named)
        return {}
    opened = open_adapter(str(folder), base, "cpu", "none")
    if "source" not in about:
        about |= {key: opened.base.manifest[key] for key in ("source", "revision")}
    if to == "gguf":
        model = opened.base.model
        found = by_layer(vectors(opened.adapter, coefficient), model)
        write_gguf(new / "vector.gguf", found, model.config.get_text_config().model_type)
        return {}
    return write_model(new, opened, to, coefficient)


def copy_adapter(new: Path, folder: Path) -> None:
    for name in ("steering.safetensors", "steering.json", "certificate.json"):
        if (folder / name).exists():
            shutil.copyfile(folder / name, new / name)


def write_model(new: Path, opened: Opened, to: str, coefficient: float) -> dict[str, float]:
    """Write a checkpoint or a LoRA; compare its logits with the steered model's before."""
    model, inputs = opened.base.model, questions(opened.base)
    with steer(model, opened.adapter, coefficient):
        steered = plain_logits(model, inputs)
    if to == "bake":
        changed = baked(opened.adapter, model, coefficient)
        exported = plain_logits(model, inputs, changed)
        model.save_pretrained(new, state_dict=model.state_dict() | changed)
        opened.base.tokenizer.save_pretrained(new)
    else:
        from pipeline.app.export.lora import wrapped, write_lora  # peft takes seconds to import

        with wrapped(model, updates(opened.adapter, model, coefficient)) as peft_model:
            exported = plain_logits(peft_model, inputs)
            manifest = opened.base.manifest
            write_lora(new, peft_model, manifest["source"], manifest["revision"])
    moved = largest(plain_logits(model, inputs), steered)
    return {
        "largest change of a logit": moved,
        "largest error of a logit": largest(exported, steered),
    }


def questions(base: Base) -> dict[str, Tensor]:
    """Return a small left-padded batch of chats as arguments of the model."""
    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
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
