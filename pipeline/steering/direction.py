"""Activation arithmetic: add a direction to the outputs of some modules, the sites; most methods
take decoder layers.

    h_l <- h_l + c (n_l / K) v_l        for K sites l, |v_l| = 1, n_l = |mean pair difference at l|

so that c = 1 adds, over all sites together, about as much as the persona itself moves the states.
"""

from typing import Any, ClassVar, Self

import polars as pl
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.lm.forward import ROWS, last_hidden, layer_output, read_layers
from pipeline.lm.layers import depth_to_layer, layers_prefix
from pipeline.lm.load import device_of
from pipeline.lm.prompts import pad_left, tokenize
from pipeline.steering.base import Coefficient, Context, Hooked, Hooks, Pairs, at_rows, is_zero
from pipeline.study.sections import DirectionParams
from pipeline.support.errors import InputError


class Direction(Hooked):
    """One vector per site, a module by its dotted name; subclasses say how it comes from the pair
    differences.
    """

    graded: ClassVar[bool] = True
    history: pl.DataFrame | None = None

    def __init__(self, sites: list[str], vectors: Tensor):
        self.sites, self.vectors = sites, vectors
        self.summary: dict[str, float] = {}

    @classmethod
    def unit_directions(cls, differences: Tensor, section: DirectionParams, seed: int) -> Tensor:
        """Return unit vectors [k, d] from positive minus negative states [n, k, d]."""
        raise TypeError(f"{cls.__name__} does not say how its direction is found")

    @classmethod
    def fit(
        cls, model, tokenizer, train: Pairs, calibration: Pairs, context: Context, seed: int
    ) -> Self:
        section = context.section
        assert isinstance(section, DirectionParams)
        sites = list(layers_in_range(model, section).values())
        differences = pair_differences(model, tokenizer, train, sites, section.last_tokens)
        return cls.scaled(sites, cls.unit_directions(differences, section, seed), differences)

    @classmethod
    def scaled(cls, sites: list[str], directions: Tensor, differences: Tensor) -> Self:
        """Return the method that adds c (n_l / K) v_l, for unit directions v [k, d] and pair
        differences [n, k, d].
        """
        norms = differences.mean(0).norm(dim=-1, keepdim=True)
        steering = cls(sites, directions * norms / len(sites))
        steering.summary = {"mean_norm": norms.mean().item()}
        return steering

    def hooks(self, model: PreTrainedModel, coefficient: Coefficient) -> Hooks:
        if is_zero(coefficient):
            return []
        hooks = {}
        for site, vector in zip(self.sites, self.vectors, strict=True):
            hooks[site] = addition(vector.to(device_of(model.get_submodule(site))), coefficient)
        return list(hooks.items())

    def rewrite(self, messages, coefficient: float):
        return messages

    def touched(self) -> list[str]:
        return self.sites

    def tensors(self) -> dict[str, Tensor]:
        return {"vectors": self.vectors}

    def metadata(self) -> dict[str, Any]:
        return {"sites": self.sites}

    @classmethod
    def load(cls, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> Self:
        return cls(metadata["sites"], tensors["vectors"])


def layers_in_range(model: PreTrainedModel, section: DirectionParams) -> dict[int, str]:
    """Return the decoder layers in the section's depth range, index to dotted name; refuse an empty
    range.
    """
    first, end = depth_to_layer(model, section.from_depth), depth_to_layer(model, section.to_depth)
    if first >= end:
        raise InputError(
            f"no layer lies between depth {section.from_depth} and {section.to_depth}: widen the "
            "range"
        )
    prefix = layers_prefix(model)
    return {index: f"{prefix}.{index}" for index in range(first, end)}


def addition(vector: Tensor, coefficient: Coefficient):
    """Return a forward hook that adds c * vector [d] to a module's output [b, t, d]."""

    def hook(_module, _inputs, output):
        hidden = layer_output(output)
        c = at_rows(coefficient, len(hidden)).to(hidden.device)
        moved = hidden + (c[:, None, None] * vector).to(hidden.dtype)
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    return hook


def pair_differences(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Pairs,
    sites: list[str],
    last_tokens: int,
) -> Tensor:
    """Return positive minus negative states [n, k, d] at k sites of one width, mean over the last
    tokens, float32.
    """
    positive, negative = (
        site_states(model, tokenizer, texts, sites, last_tokens)
        for texts in (pairs.positive, pairs.negative)
    )
    widths = {states.shape[-1] for states in positive}
    if len(widths) > 1:
        raise InputError(
            f"{sites[0]} to {sites[-1]} have outputs of {sorted(widths)} dimensions: choose sites "
            "of one width"
        )
    return torch.stack(positive, dim=1) - torch.stack(negative, dim=1)


@torch.no_grad()
def site_states(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str],
    sites: list[str],
    last_tokens: int,
) -> list[Tensor]:
    """Return the texts' outputs [n, d] of each module, mean over the last tokens, float32; widths
    may differ.
    """
    parts = []
    with read_layers([model.get_submodule(site) for site in sites]) as seen:
        for start in range(0, len(texts), ROWS):
            ids, mask = pad_left(
                tokenize(tokenizer, texts[start : start + ROWS]),
                tokenizer.pad_token_id,
                model.device,
            )
            last_hidden(model, ids, mask)
            if any(hidden.ndim != 3 for hidden in seen):
                raise InputError(
                    "a target module sees its tokens without batch rows, as experts do: leave it "
                    "out of modules.target"
                )
            parts.append(
                [hidden[:, -last_tokens:].float().mean(1).to(ids.device) for hidden in seen]
            )
    return [torch.cat(site) for site in zip(*parts, strict=True)]
