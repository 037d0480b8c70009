"""What is measured: a base, an untrained adapter on it, dilemmas and contrast pairs."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

from pipeline.app.use import DTYPES, load_base
from pipeline.lm.base import Base
from pipeline.lm.layers import select
from pipeline.lm.load import choose_device
from pipeline.reference.items import held_out_items
from pipeline.scoring.wording import ACTION
from pipeline.steering.base import Pairs
from pipeline.steering.methods.innerpissa import InnerPissa, SvdModule
from pipeline.steering.svd import Factors
from pipeline.study.behaviours import load_behaviour
from pipeline.study.pairs import draw_pairs
from pipeline.study.params import Params, load_params
from pipeline.support.errors import InputError
from pipeline.support.paths import behaviour_file
from pipeline.support.sections import PairsParams

REFERENCE = "models/reference"  # the weights of one shape, the tokenizer of all
# The configurations on the hub, with random weights: speed does not depend on these.
SHAPES: dict[str, PreTrainedConfig] = {
    "smollm2-135m": LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, head_dim=64, tie_word_embeddings=True,
        max_position_embeddings=8192, dtype="float32",
    ),
    "qwen3-600m": Qwen3Config(
        vocab_size=151936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28,
        num_attention_heads=16, num_key_value_heads=8, head_dim=128, tie_word_embeddings=True,
        max_position_embeddings=40960, dtype="bfloat16",
    ),
    "gemma3-1b": Gemma3TextConfig(
        vocab_size=262144, hidden_size=1152, intermediate_size=6912, num_hidden_layers=26,
        num_attention_heads=4, num_key_value_heads=1, head_dim=256, sliding_window=512,
        max_position_embeddings=32768, dtype="bfloat16",
    ),
}  # fmt: skip
DILEMMAS = {"cuda": 256, "mps": 64, "cpu": 16}  # by device,
WIDE = {"cuda": 256, "mps": 16, "cpu": 4}  # and where the model is one of the shapes above


@dataclass(frozen=True)
class Subject:
    base: Base
    adapter: InnerPissa
    items: list[dict[str, Any]]
    """Two per dilemma, side by side."""
    pairs: Pairs
    params: Params


def random_model(
    tokenizer: Any, config: PreTrainedConfig, dtype: torch.dtype, device: torch.device
) -> PreTrainedModel:
    """Return a random model of a shape that ends its texts as the tokenizer does."""
    torch.manual_seed(0)
    ends = {name: getattr(tokenizer, name) for name in ("eos_token_id", "pad_token_id")}
    own = type(config)(**config.to_dict() | ends | {"bos_token_id": None})
    with device:
        model = AutoModelForCausalLM.from_config(own, dtype=dtype)
    return model.eval().requires_grad_(False)


def untrained(model: PreTrainedModel, params: Params) -> InnerPissa:
    """Return InnerPiSSA as training begins it, but frozen and on singular vectors found roughly."""
    section = params.steering["innerpissa"]
    shape = section.model_dump(include=set(InnerPissa.shape_fields))
    generator = torch.Generator().manual_seed(0)
    modules = {}
    for target in select(model, params.modules):
        weight = target.module.weight.detach().float()
        rank = min(params.rank, *weight.shape)
        module = SvdModule(Factors(*torch.svd_lowrank(weight, rank, niter=1)), shape)
        module.initialise(section, generator)
        modules[target.name] = module.requires_grad_(False)
    return InnerPissa(dict(modules), shape)


def lengthened(items: list[dict[str, Any]], tokenizer: Any, length: int) -> list[dict[str, Any]]:
    """Return the items with more sentences in their situations, up to `length` tokens of prompt."""
    heads = [item["prompt"].rpartition(ACTION)[0] for item in items]
    sentences = [head.rpartition("\n")[2].partition(": ")[2] for head in heads]
    longer = []
    for index, item in enumerate(items):
        first = index - index % 2  # both actions of a dilemma have one situation
        head, action = heads[index], item["prompt"].rpartition(ACTION)[2]
        end = len(tokenizer(ACTION + action)["input_ids"])
        for sentence in [*sentences[first + 2 :: 2], *sentences * length]:
            if len(tokenizer(head)["input_ids"]) + end >= length:
                break
            head += f" {sentence}"
        longer.append(item | {"prompt": head + ACTION + action})
    return longer


def prepare(
    model: str, dtype: str | None, device: str, dilemmas: int | None, length: int, pairs: int | None
) -> Subject:
    """Load a model, or make a random one of a shape with the bundled model's tokenizer.

    Without a number of `dilemmas` the device says how many; a prompt has `length` tokens or more.
    A step has `pairs` pairs, by default those of params.yaml.
    """
    if dtype not in (None, *DTYPES):
        raise InputError(f"dtype {dtype!r} is unknown: take {', '.join(DTYPES)}, or none")
    params, place, config = load_params(), choose_device(device), SHAPES.get(model)
    if pairs:
        training = params.training.model_copy(update={"batch_size": pairs})
        params = params.model_copy(update={"training": training})
    base = load_base(REFERENCE if config else model, dtype or "float32", str(place))
    if config:
        wanted = getattr(torch, dtype) if dtype else config.dtype
        base = replace(base, model=random_model(base.tokenizer, config, wanted, place))
    base = replace(base, batch_size=params.models[params.model].batch_size)
    count = dilemmas or (WIDE if config else DILEMMAS)[place.type]
    items = held_out_items(params.behaviour, count).to_dicts()
    behaviour = load_behaviour(behaviour_file(params.behaviour))
    drawn = PairsParams(
        max_pairs=max(8, 4 * params.training.batch_size), calibration_share=0.2, seed=0
    )
    frame = draw_pairs(behaviour, "reference", drawn, base.tokenizer, {})
    items = lengthened(items, base.tokenizer, length)
    return Subject(base, untrained(base.model, params), items, Pairs.of(frame, "train"), params)
