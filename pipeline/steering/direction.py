"""Activation arithmetic: add a direction to the residual stream of some layers.

    h_l <- h_l + c (n_l / K) v_l        for K layers l, |v_l| = 1, n_l = |mean pair difference at l|

so that c = 1 adds, over all layers together, about as much as the persona itself moves the states.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar, Self

import polars as pl
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.errors import InputError
from pipeline.lm.forward import last_hidden, layer_output, read_layers
from pipeline.lm.layers import decoder_layers, depth_to_layer
from pipeline.lm.prompts import pad_left, tokenize
from pipeline.sections import DirectionParams
from pipeline.steering.base import Coefficient, Context, Pairs, at_rows, is_zero

ROWS = 64  # texts per forward pass


class Direction:
    """One vector per layer; subclasses say how it comes from the pair differences."""

    graded: ClassVar[bool] = True
    history: pl.DataFrame | None = None

    def __init__(self, layers: list[int], vectors: Tensor):
        self.layers, self.vectors = layers, vectors
        self.summary: dict[str, float] = {}

    @classmethod
    def unit_directions(cls, differences: Tensor, section: DirectionParams, seed: int) -> Tensor:
        """Return unit vectors [k, d] from positive minus negative states [n, k, d]."""
        raise TypeError(f"{cls.__name__} does not say how its direction is found")

    @classmethod
    def fit(cls, model, tokenizer, train: Pairs, calibration: Pairs, context: Context, seed: int) -> Self:
        section = context.section
        assert isinstance(section, DirectionParams)
        first, end = depth_to_layer(model, section.from_depth), depth_to_layer(model, section.to_depth)
        if first >= end:
            raise InputError(f"no layer lies between depth {section.from_depth} and {section.to_depth}: widen the range")
        layers = list(range(first, end))
        differences = pair_differences(model, tokenizer, train, layers, section.last_tokens)
        norms = differences.mean(0).norm(dim=-1, keepdim=True)
        vectors = cls.unit_directions(differences, section, seed) * norms / len(layers)
        steering = cls(layers, vectors)
        steering.summary = {"mean_norm": norms.mean().item()}
        return steering

    @contextmanager
    def steer(self, model: PreTrainedModel, coefficient: Coefficient) -> Iterator[None]:
        if is_zero(coefficient):
            yield
            return
        stack = decoder_layers(model)
        with ExitStack() as attached:
            for layer, vector in zip(self.layers, self.vectors, strict=True):
                attached.callback(stack[layer].register_forward_hook(addition(vector, coefficient)).remove)
            yield

    def rewrite(self, messages, coefficient: float):
        return messages

    def tensors(self) -> dict[str, Tensor]:
        return {"vectors": self.vectors}

    def metadata(self) -> dict[str, Any]:
        return {"layers": self.layers}

    @classmethod
    def load(cls, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> Self:
        return cls(metadata["layers"], tensors["vectors"])


def addition(vector: Tensor, coefficient: Coefficient):
    """Return a forward hook that adds c * vector [d] to a layer's output [b, t, d]."""

    def hook(_module, _inputs, output):
        hidden = layer_output(output)
        c = at_rows(coefficient, len(hidden)).to(hidden.device)
        moved = hidden + (c[:, None, None] * vector).to(hidden.dtype)
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    return hook


@torch.no_grad()
def pair_differences(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs, layers: list[int], last_tokens: int
) -> Tensor:
    """Return positive minus negative states [n, k, d] at k layers' outputs, mean over the last tokens, float32."""
    stack = decoder_layers(model)
    with read_layers([stack[layer] for layer in layers]) as seen:

        def states(texts: list[str]) -> Tensor:
            ids, mask = pad_left(tokenize(tokenizer, texts), tokenizer.pad_token_id, model.device)
            last_hidden(model, ids, mask)
            return torch.stack([hidden[:, -last_tokens:].float().mean(1) for hidden in seen], dim=1)

        parts = [
            states(pairs.positive[i : i + ROWS]) - states(pairs.negative[i : i + ROWS])
            for i in range(0, len(pairs.positive), ROWS)
        ]
    return torch.cat(parts)
