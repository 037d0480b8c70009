"""An exact LoRA in peft's own form, for `PeftModel.from_pretrained(base, folder)`.

Rank r is the adapter's own, and peft's scaling lora_alpha / r is 1. peft writes config and names.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.app.export.weights import plain_name
from pipeline.lm.base import Base
from pipeline.steering.base import Update, dense
from pipeline.support.errors import InputError


@contextmanager
def wrapped(model: PreTrainedModel, updates: dict[str, Update]) -> Iterator[PeftModel]:
    """Yield the model with the updates as peft's layers; afterwards it is as it was."""
    ranks = {name: len(update.A) for name, update in updates.items()}
    rank = max(ranks.values())
    others = {name: own for name, own in ranks.items() if own != rank}
    dora = any(update.magnitude is not None for update in updates.values())
    config = LoraConfig(
        task_type="CAUSAL_LM", target_modules=list(updates), use_dora=dora, inference_mode=True,
        r=rank, lora_alpha=rank, rank_pattern=others, alpha_pattern=others,
    )  # fmt: skip
    if hasattr(model, "peft_config"):
        raise InputError("the model carries a peft adapter already: load the base without it")
    peft_model = get_peft_model(model, config)
    try:
        for name, update in updates.items():
            fill(model.get_submodule(name), update)
        yield peft_model.eval()
    finally:
        peft_model.unload()


@torch.no_grad()
def fill(layer: Any, update: Update) -> None:
    """Copy an update into a peft layer of its rank."""
    parts: dict[str, Tensor] = {"lora_A": update.A, "lora_B": update.B}
    if update.magnitude is not None:
        parts["lora_magnitude_vector"] = update.magnitude
    elif "default" in layer.lora_magnitude_vector:  # a LoRA beside a DoRA keeps its own length
        weight = dense(layer.base_layer, "the base").float().cpu()
        parts["lora_magnitude_vector"] = (weight + (update.B @ update.A).cpu()).norm(dim=1)
    for name, tensor in parts.items():
        getattr(layer, name)["default"].weight.copy_(tensor)


def write_lora(folder: Path, peft_model: PeftModel, base: Base) -> None:
    """Write adapter_model.safetensors and adapter_config.json, named as plain transformers does."""
    config, name = peft_model.peft_config["default"], plain_name(base)
    ranks = {name(module): rank for module, rank in config.rank_pattern.items()}
    config.base_model_name_or_path = base.manifest["source"]
    config.revision = base.manifest["revision"]
    # peft made a set of them, which has no order of its own.
    config.target_modules = sorted(map(name, config.target_modules))
    config.rank_pattern = config.alpha_pattern = ranks
    peft_model.save_pretrained(str(folder), save_embedding_layers=False)
    file, before = folder / "adapter_model.safetensors", "base_model.model."
    tensors = load_file(file)
    renamed = {before + name(key.removeprefix(before)): tensors[key] for key in tensors}
    save_file(renamed, file, metadata={"format": "pt"})
