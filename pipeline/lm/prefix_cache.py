"""Prefix caching: keys and values of the tokens with which all texts begin, computed once.

Serving systems do so for requests with one instruction (Kwon et al., arXiv 2309.06180, section
4.4). Here each coefficient has its own, as steering acts on these tokens as well.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel


@dataclass(frozen=True)
class PrefixCache:
    """The common prefix of all texts, run once per coefficient."""

    length: int
    coefficients: list[float]
    layers: list[tuple[Tensor, Tensor]]
    """Keys and values [k, heads, length, e] of each layer."""

    @classmethod
    def of(cls, model: PreTrainedModel, ids: list[int], coefficients: list[float]) -> Self:
        """Run a prefix under what is attached to the model, one row per coefficient."""
        cache = DynamicCache()
        rows = torch.tensor([ids], device=model.device).expand(len(coefficients), -1)
        model.get_decoder()(input_ids=rows, past_key_values=cache, use_cache=True)
        layers = [(layer.keys, layer.values) for layer in cache.layers]
        return cls(len(ids), coefficients, layers)

    def at(self, coefficients: list[float]) -> DynamicCache:
        """Return a cache whose row i holds the prefix under coefficients[i]."""
        index = torch.tensor([self.coefficients.index(c) for c in coefficients])
        cache = DynamicCache()
        for number, (keys, values) in enumerate(self.layers):
            own = index.to(keys.device, non_blocking=True)
            cache.update(keys[own], values[own], number)
        return cache
