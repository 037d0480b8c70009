"""What is measured: a base, an untrained adapter on it, dilemmas and contrast pairs."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3Config

from pipeline.app.use import load_base
from pipeline.lm.base import Base
from pipeline.lm.layers import select
from pipeline.lm.load import choose_device
from pipeline.reference.items import held_out_items
from pipeline.steering.base import Pairs
from pipeline.steering.methods.innerpissa import InnerPissa, SvdModule
from pipeline.steering.svd import decompose
from pipeline.study.behaviours import load_behaviour
from pipeline.study.pairs import draw_pairs
from pipeline.study.params import Params, load_params
from pipeline.support.paths import behaviour_file
from pipeline.support.sections import PairsParams

HEAD = 128  # dimensions per attention head of a random model


@dataclass(frozen=True)
class Subject:
    base: Base
    adapter: InnerPissa
    items: list[dict[str, Any]]
    """Two per dilemma, side by side."""
    pairs: Pairs
    params: Params


def random_model(tokenizer: Any, layers: int, width: int, device: torch.device) -> PreTrainedModel:
    """Return a random Qwen3 in Qwen3-0.6B's proportions: speed does not depend on weights."""
    torch.manual_seed(0)
    heads = max(1, width // HEAD)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=3 * width,
        num_hidden_layers=layers, num_attention_heads=2 * heads, num_key_value_heads=heads,
        head_dim=HEAD, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config).to(device).eval().requires_grad_(False)


def untrained(model: PreTrainedModel, params: Params) -> InnerPissa:
    """Return InnerPiSSA as training begins it, but frozen; at full rank where a matrix has less."""
    section = params.steering["innerpissa"]
    shape = section.model_dump(include=set(InnerPissa.shape_fields))
    generator = torch.Generator().manual_seed(0)
    modules = {}
    for target in select(model, params.modules):
        module = SvdModule(decompose(target.module.weight, params.rank), shape)
        module.initialise(section, generator)
        modules[target.name] = module.requires_grad_(False)
    return InnerPissa(dict(modules), shape)


def prepare(source: str, layers: int | None, width: int, device: str, dilemmas: int) -> Subject:
    """Load the model, or with `layers` make a random one that keeps its tokenizer."""
    params = load_params()
    base = load_base(source, "float32", "cpu" if layers else device)
    if layers:
        model = random_model(base.tokenizer, layers, width, choose_device(device))
        base = replace(base, model=model)
    base = replace(base, batch_size=params.models[params.model].batch_size)
    items = held_out_items(params.behaviour, dilemmas).to_dicts()
    behaviour = load_behaviour(behaviour_file(params.behaviour))
    count = max(8, 4 * params.training.batch_size)
    drawn = PairsParams(max_pairs=count, calibration_share=0.2, seed=0)
    frame = draw_pairs(behaviour, "reference", drawn, base.tokenizer, {})
    return Subject(base, untrained(base.model, params), items, Pairs.of(frame, "train"), params)
