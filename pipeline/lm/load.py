"""Say for ever what a model id means, and load it frozen."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from pipeline.lm.checks import check_model
from pipeline.lm.gguf import dequantise, file_hash, is_gguf
from pipeline.lm.prompts import check_template
from pipeline.lm.quantisation import keep_packed, quantization_config
from pipeline.lm.sources import locate, weights_hash
from pipeline.support.errors import InputError, in_a_line
from pipeline.support.paths import resolve_source
from pipeline.support.sections import ModelParams
from pipeline.support.threads import choose_threads

SPREAD = "spread"
# What libraries raise for files that are missing or damaged.
UNREADABLE = (
    OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError
)  # fmt: skip
# A multimodal checkpoint's names of its text decoder, old and new -> the decoder's own names.
DECODER = {
    r"^language_model\.model\.": "model.",
    r"^model\.language_model\.": "model.",
    r"^language_model\.lm_head": "lm_head",
}


def settle() -> None:
    """Call each vector function once on one element, so that two runs give the same digits.

    On CPUs, oneMKL 2024.2 may answer a process's first call in low precision when several threads
    make it at once (pytorch issue 188792).
    """
    for name in ("exp", "log", "sqrt", "rsqrt", "sin", "cos", "tanh", "erf", "log1p"):
        getattr(torch, name)(torch.ones(1))


def choose_device(name: str) -> torch.device:
    """Return the named device; `auto` takes CUDA, then Apple, then the CPU."""
    if name == "auto":
        apple = "mps" if torch.backends.mps.is_available() else "cpu"
        name = "cuda" if torch.cuda.is_available() else apple
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError):
        raise InputError(
            f"device {name!r} cannot be used here: take auto, cpu, cuda, cuda:N, mps or spread"
        ) from None


@contextmanager
def whole(folder: Path, what: str) -> Iterator[None]:
    """Say in one sentence that a part of a model's folder is missing or damaged."""
    try:
        yield
    except UNREADABLE as error:
        raise InputError(
            f"the {what} in {folder} cannot be read ({in_a_line(error)}): copy or download the "
            "model again"
        ) from None


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    with whole(folder, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    # What transformers makes of a folder without tokenizer files.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise InputError(
            f"{folder} holds no tokenizer: copy or download the model again, tokenizer files "
            "included"
        )
    if not tokenizer.is_fast:
        raise InputError(f"the tokenizer in {folder} has no fast form: save its tokenizer.json too")
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise InputError(
                f"the tokenizer in {folder} has neither a padding nor an end token: name eos_token "
                "in its tokenizer_config.json"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def describe(
    name: str, params: ModelParams, quantisation: str | None = None, keep: Path | None = None
) -> dict[str, Any]:
    """Return the manifest: which files the model id means, for ever, and its shapes.

    `quantisation` overrides the section's. `keep` is a new folder for the weights of a GGUF
    file; without it they go to the user's cache. Raises InputError for what is no causal decoder
    with a chat template.
    """
    local = resolve_source(params.source)
    file = local if local and is_gguf(local) else None
    if file and keep:
        dequantise(file, keep)
    folder = keep if file and keep else locate(params.source, params.revision)
    config, tokenizer = read_config(params.source, folder), read_tokenizer(folder)
    check_template(tokenizer, params.template_options)
    shapes = config.get_text_config()
    return {
        "model": name,
        "source": params.source,
        "revision": None if local else folder.name,  # the snapshot's folder is named by its commit
        "weights_sha256": weights_hash(folder),
        "quantisation": quantisation or params.quantisation,
        "template_sha256": template_hash(tokenizer),
        "architecture": MODEL_FOR_CAUSAL_LM_MAPPING[type(decoder_config(config))].__name__,
        "layers": shapes.num_hidden_layers,
        "hidden_size": shapes.hidden_size,
        "vocab_size": shapes.vocab_size,
    } | ({"gguf_sha256": file_hash(file)} if file else {})


def read_config(source: str, folder: Path) -> PreTrainedConfig:
    """Return the config of a decoder in its original precision; refuse any other."""
    if not (folder / "config.json").exists():
        raise InputError(
            f"{source} holds no config.json, so it is no model: name a model's folder or a hub id"
        )
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except ValueError:
        raise InputError(
            f"transformers has no code of its own for model {source!r}: take one that it knows"
        ) from None
    except OSError:
        raise InputError(
            f"{folder}/config.json is not valid JSON: copy or download the model again"
        ) from None
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise InputError(
            f"model {source!r} is a {config.model_type}, no causal language model: take a decoder"
        )
    if getattr(config, "quantization_config", None):
        raise InputError(
            f"model {source!r} is stored quantised: take its original weights, and set quantisation"
        )
    return config


def decoder_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the config of what is loaded: of a multimodal model its text decoder."""
    text = config.get_text_config()
    return text if type(text) in MODEL_FOR_CAUSAL_LM_MAPPING else config


def folder_of(manifest: dict[str, Any]) -> Path:
    """Return the folder of a manifest's weights: its own copy of a GGUF file's, else the source."""
    folder = manifest.get("folder")
    return Path(folder) if folder else locate(manifest["source"], manifest["revision"])


def template_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    return hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()


def load_tokenizer(manifest: dict[str, Any]) -> PreTrainedTokenizerBase:
    """Load the tokenizer; refuse another chat template than the manifest's."""
    tokenizer = read_tokenizer(folder_of(manifest))
    check_same(manifest, "template_sha256", template_hash(tokenizer), "words of the chat template")
    return tokenizer


def check_same(manifest: dict[str, Any], key: str, now: str, what: str) -> None:
    """Refuse files that have changed since the manifest was written."""
    if now != manifest.get(key, now):
        raise InputError(
            f"the {what} in {manifest['source']} are now {now[:12]}, the manifest says "
            f"{manifest[key][:12]}: run `dvc repro`"
        )


def loading_options(
    config: PreTrainedConfig, manifest: dict[str, Any], dtype: torch.dtype, device: Any
) -> dict[str, Any]:
    """Return what `from_pretrained` takes besides the folder."""
    options: dict[str, Any] = {"dtype": dtype}
    if (text := decoder_config(config)) is not config:
        options |= {"config": text, "key_mapping": DECODER}
    if held := quantization_config(manifest.get("quantisation", "none"), dtype):
        options |= {"quantization_config": held}
    if device == SPREAD:
        options |= {"device_map": "auto"}
    elif held:
        options |= {"device_map": {"": str(choose_device(str(device)))}}
    return options


def load_model(manifest: dict[str, Any], dtype: str, device: torch.device | str) -> PreTrainedModel:
    """Load the base model, frozen and quantised as the manifest says; refuse other weights.

    `device` is what `choose_device` takes or returns, or `spread`. Of a multimodal model only the
    text decoder is loaded.
    """
    settle()
    folder = folder_of(manifest)
    check_same(manifest, "weights_sha256", weights_hash(folder), "weights")
    config = AutoConfig.from_pretrained(folder)
    choose_threads(config.get_text_config().hidden_size)
    options = loading_options(config, manifest, getattr(torch, dtype), device)
    with whole(folder, "weights"):
        model, read = AutoModelForCausalLM.from_pretrained(
            folder, output_loading_info=True, **options
        )
    if read["missing_keys"]:  # transformers would draw them at random
        raise InputError(
            f"the weights in {folder} lack {min(read['missing_keys'])}: copy or download the model "
            "again"
        )
    keep_packed(model)
    if "device_map" not in options:
        model = model.to(choose_device(str(device)))
    model = model.eval().requires_grad_(False)
    check_model(model)
    return model
