"""Prefix caching: keys and values of the tokens with which all texts begin, computed once.

Serving systems do so for requests with one instruction (Kwon et al., arXiv 2309.06180, section
4.4). Here each coefficient has its own, as steering acts on these tokens as well.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from pipeline.lm.prefixes import Rows, attention_mask, rows_hidden


@dataclass(frozen=True)
class PrefixCache:
    """The common prefix of all texts, run once per coefficient."""

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
        return cls(coefficients, layers)

    def at(self, coefficients: list[float]) -> DynamicCache:
        """Return a cache whose row i holds the prefix under coefficients[i]."""
        index = torch.tensor([self.coefficients.index(c) for c in coefficients])
        cache = DynamicCache()
        for number, (keys, values) in enumerate(self.layers):
            own = index.to(keys.device, non_blocking=True)
            cache.update(keys[own], values[own], number)
        return cache


def states_after(model: PreTrainedModel, rows: Rows, past: DynamicCache | None) -> Tensor:
    """Return the final normalised hidden states [b, w, d] of rows that go on from a prefix."""
    if past is None:
        return rows_hidden(model, rows)
    count, cached = len(rows.ids), past.get_seq_length()
    prefix = torch.arange(cached, device=rows.ids.device).expand(count, -1)
    zeros = torch.zeros_like(prefix)  # the prefix is what all texts of a row begin with
    whole = rows._replace(
        ids=torch.cat([zeros, rows.ids], dim=1),
        positions=torch.cat([prefix, rows.positions + cached], dim=1),
        branch=torch.cat([zeros, rows.branch], dim=1),
        # As if of several texts: sliding windows then count positions, not padding before a text.
        last=rows.last.repeat(1, 2),
    )
    output = model.get_decoder()(
        input_ids=rows.ids, attention_mask=later_rows(attention_mask(model, whole), cached),
        position_ids=whole.positions[:, cached:], past_key_values=past, use_cache=False,
    )  # fmt: skip
    return output.last_hidden_state.to(rows.ids.device)  # of a spread model it may lie elsewhere


def later_rows(mask: Tensor | dict[str, Tensor], cached: int) -> Tensor | dict[str, Tensor]:
    """Return what tokens after a prefix see, of masks [b, 1, w, w] over all."""
    if isinstance(mask, dict):
        return {kind: own[:, :, cached:] for kind, own in mask.items()}
    return mask[:, :, cached:]
