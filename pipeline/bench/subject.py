"""What is measured: a model, an untrained adapter of the study's settings on it, dilemmas and
contrast pairs.
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, Qwen3Config

from pipeline.app.use import load_base
from pipeline.evalsets.reference import build_items
from pipeline.lm.layers import select
from pipeline.lm.load import choose_device
from pipeline.steering.base import Pairs
from pipeline.steering.methods.innerpissa import InnerPissa
from pipeline.steering.methods.svd_adapter import SHAPE, SvdModule
from pipeline.steering.svd import decompose
from pipeline.study.behaviours import load_behaviour
from pipeline.study.pairs import build_pairs, load_suffixes, renderer
from pipeline.study.params import Params, load_params
from pipeline.study.sections import PairsParams, ReferenceParams, SvdAdapterParams
from pipeline.support.paths import SUFFIXES, behaviour_file

HEAD = 128  # dimensions per attention head of a random model


@dataclass(frozen=True)
class Subject:
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    adapter: InnerPissa
    items: list[dict[str, Any]]
    """Two per dilemma, side by side."""
    pairs: Pairs
    params: Params


def random_model(
    tokenizer: PreTrainedTokenizerBase, layers: int, width: int, device: torch.device
) -> PreTrainedModel:
    """Return a random Qwen3 in Qwen3-0.6B's proportions: speed does not depend on what weights
    say.
    """
    torch.manual_seed(0)
    heads = 2 * max(1, width // HEAD)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads // 2, head_dim=HEAD,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config).to(device).eval().requires_grad_(False)


def untrained(model: PreTrainedModel, params: Params) -> InnerPissa:
    """Return InnerPiSSA as training begins it, but frozen as a loaded one.

    It has the study's modules and rank, or full rank where a matrix has less.
    """
    section, generator, modules = (
        params.steering["innerpissa"],
        torch.Generator().manual_seed(0),
        {},
    )
    assert isinstance(section, SvdAdapterParams)
    for target in select(model, params.modules):
        module = SvdModule(
            decompose(target.module.weight, params.rank), section.model_dump(include=set(SHAPE))
        )
        module.initialise(section, generator)
        modules[target.name] = module.requires_grad_(False)
    return InnerPissa(dict(modules), section.model_dump(include=set(SHAPE)))


def prepare(source: str, layers: int | None, width: int, device: str, dilemmas: int) -> Subject:
    """Load the model, or with `layers` make a random one that keeps its tokenizer."""
    params = load_params()
    model, tokenizer, _ = load_base(source, "float32", "cpu" if layers else device)
    if layers:
        model = random_model(tokenizer, layers, width, choose_device(device))
    items = build_items(
        ReferenceParams(target_dilemmas=dilemmas, other_dilemmas=0, seed=0), params.behaviour
    ).to_dicts()
    behaviour = load_behaviour(behaviour_file(params.behaviour))
    drawn = PairsParams(
        max_pairs=max(8, 4 * params.training.batch_size), calibration_share=0.2, seed=0
    )
    frame = build_pairs(behaviour, load_suffixes(SUFFIXES), drawn, renderer(tokenizer, {}))
    return Subject(
        model, tokenizer, untrained(model, params), items, Pairs.of(frame, "train"), params
    )
