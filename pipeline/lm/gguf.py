"""Weights in one GGUF file, dequantised once into a folder in the hub's layout."""

import hashlib
from functools import lru_cache
from pathlib import Path

import torch
import transformers
from huggingface_hub.constants import HF_HOME
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.support.errors import InputError, in_a_line
from pipeline.support.files import new_folder

CACHE = Path(HF_HOME) / "innerpissa" / "gguf"
"""Beside the hub's own cache: one folder per file, named by its hash."""
MAGIC = b"GGUF"


def is_gguf(source: str | Path) -> bool:
    return Path(source).suffix.lower() == ".gguf"


def file_hash(file: Path) -> str:
    """Return the sha256 of a file, which is read once as long as it is not written."""
    return hash_at(file, file.stat().st_mtime_ns, file.stat().st_size)


@lru_cache
def hash_at(file: Path, _changed: int, _size: int) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def cached(file: Path) -> Path:
    """Return the folder of a GGUF file's dequantised weights, made at the first call."""
    folder = CACHE / file_hash(file)
    if not (folder / "config.json").exists():
        with new_folder(folder) as new:
            dequantise(file, new)
    return folder


def dequantise(file: Path, folder: Path) -> None:
    """Write a GGUF file's weights (bfloat16), config, tokenizer and chat template into a folder.

    Raises InputError for a damaged file, or an architecture that transformers cannot read.
    """
    with file.open("rb") as handle:
        if handle.read(len(MAGIC)) != MAGIC:
            raise InputError(f"{file} is no GGUF file: copy or download it again")
    options = {}
    if hasattr(transformers, "GgufConfig"):  # without it, newer versions keep the weights packed
        options = {"quantization_config": transformers.GgufConfig(dequantize=True)}
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        model = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.bfloat16, **options
        )
    except Exception as error:  # the loader fails in many ways: by version, architecture, block
        raise InputError(
            f"transformers cannot read {file} ({in_a_line(error)}): take the model's own folder or "
            "hub id"
        ) from None
    folder.mkdir(exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
