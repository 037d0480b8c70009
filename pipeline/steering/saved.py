"""How a fitted method is saved and loaded: steering.safetensors, steering.json, history.parquet."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.steering import METHODS
from pipeline.steering.base import Attachable, CostUnit, Sign, Steering
from pipeline.steering.hooks import attached, check_acts
from pipeline.support.errors import InputError, in_a_line
from pipeline.support.files import new_folder, read_json, write_json

NEEDED = {"weights_sha256", "method", "metadata", "unit"}


def save_steering(folder: Path, method: str, steering: Steering, about: dict[str, Any]) -> None:
    """Write a method, whole or not at all; `about` says what it was fitted on."""
    content = {"method": method, **about}
    content |= {"summary": steering.summary, "metadata": steering.metadata()}
    content["unit"] = steering.unit._asdict()
    content["sign"] = steering.sign._asdict() if steering.sign else None
    tensors = {k: v.detach().cpu().contiguous() for k, v in steering.tensors().items()}
    with new_folder(folder) as new:
        save_file(tensors, new / "steering.safetensors")
        write_json(new / "steering.json", content)
        if steering.history is not None:
            steering.history.write_parquet(new / "history.parquet")


def base_name(about: dict[str, Any]) -> str:
    """Return the base that a method was fitted on: its id, and its folder or hub id and commit."""
    source, revision = about.get("source"), about.get("revision")
    where = f"{source} at {revision[:12]}" if revision else source
    parts = [about.get("model"), f"({where})" if where else None]
    return " ".join(part for part in parts if part) or "a model without a name"


def adapter_hash(folder: Path) -> str:
    """Return the sha256 of a saved method: its tensors and its metadata."""
    files = [(folder / name).read_bytes() for name in ("steering.json", "steering.safetensors")]
    return hashlib.sha256(
        b"".join(hashlib.sha256(content).digest() for content in files)
    ).hexdigest()


def load_steering(folder: Path, weights_sha256: str, device: torch.device) -> Steering:
    """Read a saved method to a device; refuse one that was fitted on another base model."""
    about = checked(folder, weights_sha256)
    file = f"{folder}/steering.safetensors"
    tensors = read_tensors(folder, device)
    try:
        steering = METHODS[about["method"]].load().load(tensors, about["metadata"])
        steering.unit = CostUnit(**about["unit"])
        steering.sign = Sign(**about["sign"]) if about.get("sign") else None
        steering.budget_reached = (about.get("dose") or {}).get("budget_reached")
        return steering
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise InputError(
            f"{file} and steering.json do not fit together ({in_a_line(error)}): fit the method "
            "again"
        ) from None


def read_about(folder: Path) -> dict[str, Any]:
    """Return what is recorded with an adapter."""
    file = folder / "steering.json"
    if not file.exists():
        raise InputError(f"{folder} holds no steering.json: fit the method first (`dvc repro`)")
    about = read_json(file)
    if not isinstance(about, dict):
        raise InputError(f"{file} is no record of an adapter: fit the method again")
    return about


def checked(folder: Path, weights_sha256: str) -> dict[str, Any]:
    """Return what is recorded; refuse an unknown method and another base model."""
    file, about = folder / "steering.json", read_about(folder)
    if not about.keys() >= NEEDED:
        lacks = "weights_sha256, method, metadata or unit"
        raise InputError(f"{file} lacks {lacks}: fit the method again")
    if about["method"] not in METHODS:
        raise InputError(
            f"{folder} holds the method {about['method']!r}, which is none of "
            f"{', '.join(METHODS)}: fit one of these"
        )
    if about["weights_sha256"] != weights_sha256:
        raise InputError(
            f"{folder} was fitted on weights {str(about['weights_sha256'])[:12]} of "
            f"{base_name(about)}, this base model has {weights_sha256[:12]}: load the base it was "
            "made for, or fit it again"
        )
    return about


def read_tensors(folder: Path, device: torch.device) -> dict[str, Tensor]:
    file = f"{folder}/steering.safetensors"
    try:
        tensors = load_file(file, device=str(device))
    except (SafetensorError, FileNotFoundError) as error:
        raise InputError(f"{file} cannot be read ({error}): fit the method again") from None
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise InputError(
                f"{folder}: tensor {name} is not finite: fit the method again with a lower "
                "learning rate"
            )
    return tensors


@torch.no_grad()
def check_fits(model: nn.Module, steering: Attachable, folder: Path) -> None:
    """Refuse a loaded method whose tensors do not fit the model's modules, or move no logit.

    Four tokens are run at c = 1, 0 and -1.
    """
    signs = torch.tensor([1.0, 0.0, -1.0])
    ids = torch.arange(1, 5, device=next(model.parameters()).device).expand(len(signs), -1)
    try:
        hooks = steering.hooks(model, signs)
        check_acts(model, hooks, len(signs))
        with attached(model, hooks):
            up, base, down = model(input_ids=ids, use_cache=False).logits
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{folder} does not fit {type(model).__name__} ({in_a_line(error)}): fit the "
            "method again on this model"
        ) from None
    if hooks and (up.equal(base) or down.equal(base) or up.equal(down)):
        raise InputError(
            f"{folder} does not act: on {type(model).__name__} c = 1 or -1 moves no logit, or both "
            "move them alike: fit the method again"
        )
