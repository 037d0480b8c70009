"""`python -m pipeline export`: one adapter in one form, whole or not at all."""

import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.app.export.card import FORMS, base_arguments, card
from pipeline.app.export.reload import Request, in_fresh_process
from pipeline.app.export.vectors import by_layer, vectors, write_gguf
from pipeline.app.export.weights import baked, plain_name, text_only, updates
from pipeline.app.opening import Opened, find_adapter, load_adapter
from pipeline.app.use import steer
from pipeline.lm.base import open_turns
from pipeline.lm.forward import token_positions
from pipeline.lm.load import folder_of
from pipeline.lm.prompts import user_chat
from pipeline.steering.saved import adapter_hash, read_about
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
    adapters: list[str], to: str, coefficient: float, out: str, base: str | None, force: bool,
    weights: Sequence[float] = (),
) -> None:  # fmt: skip
    """Export an adapter, a folder or a hub id, or several as one; say what was written."""
    check_request(to, coefficient, len(adapters) > 1 or bool(weights))
    folders, target = [find_adapter(adapter) for adapter in adapters], Path(out)
    check_target(target, force)
    about = together([read_about(folder) for folder in folders], weights)
    with new_folder(target) as new:
        held = None if to == "hub" else "none"
        opened = load_adapter(folders, base, quantisation=held, device="cpu", weights=weights)
        manifest, dtype = opened.base.manifest, str(opened.base.model.dtype).removeprefix("torch.")
        about |= {key: about.get(key, manifest[key]) for key in ("source", "revision")}
        about["text_only"] = text_only(opened.base)
        with each_by_itself(len(folders) > 1):
            write(new, folders[0], opened, to, coefficient, about)
        readme = new / "README.md"
        readme.write_text(card(folders, about, to, coefficient, {}), encoding="utf-8")
        place, source = (str(folder.resolve()) for folder in (new, folder_of(manifest)))
        request = Request(place, source, base_arguments(about), coefficient, dtype)
        expected = expectation(opened, coefficient)
        check = compare(in_fresh_process(request, expected.inputs), expected)
        hashes = [adapter_hash(folder) for folder in folders]
        own = {"adapter_sha256": hashes[0] if len(hashes) == 1 else hashes}
        write_json(new / RECORD, {"to": to, "coefficient": coefficient, **own, "check": check})
        readme.write_text(card(folders, about, to, coefficient, check), encoding="utf-8")
    print("; ".join([f"{target}: {FORMS[to]}", *(f"{name} {check[name]:.2g}" for name in check)]))


def check_request(to: str, coefficient: float, several: bool) -> None:
    """Refuse an unknown form, and what a form cannot hold; a weight counts as several."""
    if to not in FORMS:
        raise InputError(f"--to {to!r} is unknown: take {', '.join(FORMS)}")
    if not math.isfinite(coefficient):
        raise InputError(f"--coefficient {coefficient} cannot be used: give a finite number")
    if to == "hub" and several:
        remedy = "export each by itself, and give load_adapter the list of them"
        raise InputError(f"--to hub writes one adapter without a weight: {remedy}")


@contextmanager
def each_by_itself(several: bool) -> Iterator[None]:
    """Change the remedy of a refusal: the form that suits one adapter may not suit the others."""
    try:
        yield
    except InputError as error:
        fault, remedy, _ = str(error).partition(": export ")
        said = f"{fault}: export each by itself" if remedy and several else str(error)
        raise InputError(said) from None


def check_target(target: Path, force: bool) -> None:
    """Refuse a folder that holds anything, except an earlier export where that may be replaced."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not (target / RECORD).exists():
        raise InputError(f"{target} exists and is no earlier export: name another folder")
    if not force:
        remedy = "name another folder, or add --force to replace it"
        raise InputError(f"{target} exists already: {remedy}")


def together(abouts: list[dict[str, Any]], weights: Sequence[float]) -> dict[str, Any]:
    """Return what is recorded with the adapter, or with several what the first one's base is."""
    if len(abouts) == 1 and not weights:
        return abouts[0]
    methods = [about.get("method") for about in abouts]
    names = [f"{c:g} {name}" for c, name in zip(weights or [1.0] * len(abouts), methods)]  # noqa: B905
    behaviours = dict.fromkeys(about.get("behaviour") or "unnamed" for about in abouts)
    own = {"seed", "summary", "metadata", "dose"}
    known = {key: value for key, value in abouts[0].items() if key not in own}
    return known | {
        "methods": methods, "method": " + ".join(names), "behaviour": " and ".join(behaviours),
        "metadata": {},
    }  # fmt: skip


def write(
    new: Path, adapter: Path, opened: Opened, to: str, coefficient: float, about: dict[str, Any]
) -> None:
    """Write one form; of `hub` the files of the folder `adapter`."""
    base, model, steering = opened.base, opened.base.model, opened.adapter
    raw = float(steering.unit.raw(coefficient))
    match to:
        case "hub":
            for file in ("steering.safetensors", "steering.json", "certificate.json"):
                if (adapter / file).exists():
                    shutil.copyfile(adapter / file, new / file)
        case "vector":
            name = plain_name(base)
            named = {name(site): vector for site, vector in vectors(steering, raw).items()}
            own = {"format": "control-vector", "convention": "add to the module's output"}
            own |= {key: about[key] for key in ("method", "weights_sha256")}
            own["coefficient"] = f"{coefficient:g}"
            save_file(named, new / "vector.safetensors", metadata=own)
        case "gguf":
            layers = by_layer(vectors(steering, raw), model)
            write_gguf(new / "vector.gguf", layers, model.config.get_text_config().model_type)
        case "bake":
            changed = model.state_dict() | baked(steering, model, raw)
            # The names of a multimodal checkpoint would fit no text decoder.
            original = not about["text_only"]
            model.save_pretrained(new, state_dict=changed, save_original_format=original)
            base.tokenizer.save_pretrained(new)
        case "lora":
            from pipeline.app.export.lora import wrapped, write_lora  # peft takes seconds to import

            with wrapped(model, updates(steering, model, raw)) as peft_model:
                write_lora(new, peft_model, base)


@torch.no_grad()
def expectation(opened: Opened, coefficient: float) -> Expected:
    """Return a small left-padded batch of chats, as the adapter puts them, and its logits."""
    base, rewrite = opened.base, opened.adapter.rewrite
    chats = [rewrite(user_chat(text), coefficient) for text in QUESTIONS]
    ids, mask = base.encode(open_turns(base, chats))
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": token_positions(mask)}
    with steer(base.model, opened.adapter, coefficient):
        steered = base.model(**inputs).logits
    return Expected(inputs, base.model(**inputs).logits, steered)


def compare(read: Tensor, expected: Expected) -> dict[str, float]:
    """Return how far read logits are from the steered ones; refuse more than rounding explains."""

    def largest(other: Tensor) -> float:
        return (other.float() - expected.steered.float()).abs().max().item()

    moved = largest(expected.plain)
    error = largest(read) if read.shape == expected.steered.shape else math.inf
    rounding = max(1e-4, 4 * torch.finfo(expected.steered.dtype).eps)
    if not error <= 0.05 * moved + rounding * expected.steered.abs().max().item():
        raise InputError(
            "read back from disk, the export does not steer as the adapter does (its logits are "
            f"{error:.2g} off, steering moves them by {moved:.2g}): take another form with --to"
        )
    return {"largest change of a logit": moved, "largest error of a logit": error}
