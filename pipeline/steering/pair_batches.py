"""Contrast pairs as tensors, and what the base model or a steered one makes of them."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline.lm.base import Base
from pipeline.lm.forward import (
    Places,
    last_hidden,
    read_layers,
    scattered,
    tails,
    token_entropy,
    token_nll,
    token_shift,
)
from pipeline.lm.prompts import pad_left, tokenize
from pipeline.lm.trunk import on_trunk, run_trunk
from pipeline.steering.base import Pairs
from pipeline.support.errors import InputError


@dataclass
class PairTensors:
    """n pairs of left-padded texts, [n, 2, t]; `chosen` are the tokens that both texts share."""

    ids: Tensor
    mask: Tensor
    chosen: Tensor
    lengths: list[int]
    shared: list[int]
    """How many last tokens of each pair are chosen."""

    def places(self, repeats: int = 1) -> Places:
        """Return the chosen tokens of `repeats` copies of all texts, ordered as [repeats, n, 2]."""
        counts = [count for count in self.shared for _ in range(2)] * repeats
        return tails(counts, self.ids.shape[-1], self.ids.device)

    def batch(self, rows: list[int]) -> "PairTensors":
        """Return some pairs, without the columns that are padding in all of them."""
        lengths = [self.lengths[row] for row in rows]
        ids, mask, chosen = (
            whole[rows][..., -max(lengths) :] for whole in (self.ids, self.mask, self.chosen)
        )
        return PairTensors(ids, mask, chosen, lengths, [self.shared[row] for row in rows])


def shared_tail(first: list[int], second: list[int]) -> int:
    """Return how many last tokens two rows have in common."""
    count = 0
    while count < min(len(first), len(second)) and first[-1 - count] == second[-1 - count]:
        count += 1
    return count


def pair_tensors(base: Base, pairs: Pairs, last_tokens: int) -> PairTensors:
    """Tokenise pairs; refuse them where a pair shares fewer than `last_tokens` last tokens."""
    positive, negative = (
        tokenize(base.tokenizer, texts) for texts in (pairs.positive, pairs.negative)
    )
    both = list(zip(positive, negative, strict=True))
    shared = [shared_tail(*pair) for pair in both]
    if not shared:
        raise InputError(
            "there are no pairs in a split: raise pairs.max_pairs or change pairs.calibration_share"
        )
    if min(shared) < last_tokens:
        raise InputError(
            f"a pair shares only {min(shared)} last tokens: lower last_tokens ({last_tokens})"
        )
    rows = [row for pair in both for row in pair]
    ids, mask = pad_left(rows, base.tokenizer.pad_token_id, base.model.device)
    width = ids.shape[1]
    # Nothing predicts a text's first token.
    shared = [
        min(count, *(len(row) - 1 for row in pair))
        for count, pair in zip(shared, both, strict=True)
    ]
    chosen = torch.arange(width) >= width - torch.tensor(shared)[:, None].repeat_interleave(2, 0)
    lengths = [max(map(len, pair)) for pair in both]
    ids, mask, chosen = (x.view(-1, 2, width) for x in (ids, mask, chosen.to(ids.device)))
    return PairTensors(ids, mask, chosen, lengths, shared)


@dataclass
class BasePass:
    """What the base model makes of n pairs, computed once."""

    states: Tensor
    """[n, 2, d]: mean over the last tokens at the loss layer."""
    nll: Tensor
    """[n, 2, t], zero where not chosen."""
    entropy: Tensor | None
    """[n, 2, t] nats, zero where not chosen; None unless distributions are asked for."""
    final: Tensor | None
    """[n, 2, t, d]: final hidden states, which give the next-token distributions back."""

    def batch(self, rows: list[int], width: int) -> "BasePass":
        """Return some pairs, cut to the last `width` columns."""
        entropy, final = (
            None if whole is None else whole[rows][:, :, -width:]
            for whole in (self.entropy, self.final)
        )
        return BasePass(self.states[rows], self.nll[rows][..., -width:], entropy, final)


class Outcome(NamedTuple):
    """One forward pass over `repeats` copies of b pairs."""

    states: Tensor
    """[repeats, b, 2, d]"""
    nll: Tensor
    """[repeats, b, 2, t]"""
    shift: Tensor | None
    """[repeats, b, 2, t]: total variation from the base, where its final states were given."""
    final: Tensor
    """[repeats b 2, t, d]"""


def run_pairs(
    model: nn.Module,
    layer: nn.Module,
    data: PairTensors,
    last_tokens: int,
    repeats: int = 1,
    base: Tensor | None = None,
    depth: int = 0,
) -> Outcome:
    """Run all texts `repeats` times in one forward pass, the first `depth` layers once.

    `base` [b, 2, t, d] are the base model's final hidden states.
    """
    once = data.ids.flatten(0, 1), data.mask.flatten(0, 1)
    ids, mask = (tensor.repeat(repeats, 1) for tensor in once)
    places = data.places(repeats)
    index = torch.arange(len(once[0]), device=ids.device).repeat(repeats)
    trunk: AbstractContextManager[None] = nullcontext()
    if depth and repeats > 1:
        below = run_trunk(model, depth, lambda: last_hidden(model, *once))
        trunk = on_trunk(model, depth, below, index)
    with read_layers([layer]) as seen, trunk:
        hidden = last_hidden(model, ids, mask)
    states = seen[0][:, -last_tokens:].float().mean(1).to(ids.device)
    moved = None
    if base is None:
        flat = token_nll(model, hidden, ids, places)
    else:
        others = base.flatten(0, 1).repeat(repeats, 1, 1)
        flat, moved = token_shift(model, hidden, ids, places, others)
    shape = (repeats, len(data.lengths), 2, -1)
    nll = scattered(ids.shape, places, flat).view(shape)
    shift = None if moved is None else scattered(ids.shape, places, moved).view(shape)
    return Outcome(states.view(shape), nll, shift, hidden)


@torch.no_grad()
def base_pass(
    model: nn.Module,
    layer: nn.Module,
    data: PairTensors,
    last_tokens: int,
    size: int,
    distribution: bool = False,
) -> BasePass:
    """Run all pairs, `size` at a time; `distribution` keeps what gives distributions back."""
    count = len(data.lengths)
    states = []
    nll = torch.zeros(data.ids.shape, device=data.ids.device)
    entropy = nll.clone() if distribution else None
    final: Tensor | None = None
    for start in range(0, count, size):
        rows = list(range(start, min(start + size, count)))
        part = data.batch(rows)
        outcome = run_pairs(model, layer, part, last_tokens)
        width = part.ids.shape[-1]
        states.append(outcome.states[0])
        nll[rows, :, -width:] = outcome.nll[0]
        if entropy is not None:
            if final is None:
                final = outcome.final.new_zeros(*data.ids.shape, outcome.final.shape[-1])
            final[rows, :, -width:] = outcome.final.unflatten(0, (-1, 2))
            places = part.places()
            by_token = token_entropy(model, outcome.final, places)
            own = scattered(outcome.final.shape[:2], places, by_token)
            entropy[rows, :, -width:] = own.unflatten(0, (-1, 2))
    return BasePass(torch.cat(states), nll, entropy, final)
