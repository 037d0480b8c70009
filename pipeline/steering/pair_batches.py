"""Contrast pairs as tokens, and what the base model or a steered one makes of them.

Of t tokens that both texts of a pair share, values lie in the last t columns. Texts with a common
beginning run it once, so a token of that beginning has one value for all of them.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline.lm.base import Base
from pipeline.lm.forward import check_length, read_layers, state_entropy, state_nll, state_shift
from pipeline.lm.prefixes import Laid, lay_texts, shares_rows, states_at
from pipeline.lm.prompts import tokenize
from pipeline.lm.trunk import repeat_rows
from pipeline.steering.base import Pairs
from pipeline.support.errors import InputError


class PairBatch(NamedTuple):
    """b pairs as rows, and each of the p tokens of these rows that a loss reads."""

    laid: Laid
    before: list[int]
    """[p]: where in the rows the token before each one lies."""
    ids: Tensor
    """[p]"""
    first: Tensor
    """[p]: where each is first among the [b, 2, t] tokens of the texts."""
    own: Tensor
    """[b, 2, t]: which of the p a text's token is."""
    chosen: Tensor
    """[b, 2, t]"""
    positive: Tensor
    """[p]: whether it is of a positive text."""

    def by_text(self, values: Tensor) -> Tensor:
        """Return values [r, p, *] as [r, b, 2, t, *], zero where not chosen."""
        spread = values[:, self.own]
        return spread.masked_fill(~self.chosen.view(*self.own.shape, *[1] * (values.ndim - 2)), 0)


@dataclass
class PairTokens:
    """n pairs of texts; `chosen` are the tokens that both texts share."""

    texts: list[list[int]]
    """The positive and the negative text of each pair, in turn."""
    shared: list[int]
    """How many last tokens of each pair are chosen."""
    chosen: Tensor
    """[n, 2, t]"""
    pad_id: int
    together: bool
    """Whether the model's texts can share a row."""

    def batch(self, rows: list[int]) -> PairBatch:
        """Lay some pairs out, without the columns that none of them needs."""
        texts = [ids for row in rows for ids in self.texts[2 * row : 2 * row + 2]]
        counts = [self.shared[row] for row in rows for _ in range(2)]
        width, device = max(counts), self.chosen.device
        laid = lay_texts(texts, self.pad_id, device, self.together)
        numbers: dict[tuple[int, int], int] = {}  # by text of the pair and place
        before, targets, first = [], [], []
        own = [[0] * width for _ in texts]
        for number, (ids, at, count) in enumerate(zip(texts, laid.at, counts, strict=True)):
            for back in range(-count, 0):
                token = number % 2, at[back]
                if token not in numbers:
                    numbers[token] = len(numbers)
                    before.append(at[back - 1])
                    targets.append(ids[back])
                    first.append((number + 1) * width + back)
                own[number][back] = numbers[token]
        positive = [text == 0 for text, _ in numbers]
        listed = (targets, first, own, positive)
        held = [torch.tensor(each).to(device, non_blocking=True) for each in listed]
        chosen = self.chosen[rows][..., -width:]
        own_by_text = held[2].view(chosen.shape)
        return PairBatch(laid, before, held[0], held[1], own_by_text, chosen, held[3])


def shared_tail(first: list[int], second: list[int]) -> int:
    """Return how many last tokens two rows have in common."""
    count = 0
    while count < min(len(first), len(second)) and first[-1 - count] == second[-1 - count]:
        count += 1
    return count


def pair_tokens(base: Base, pairs: Pairs, last_tokens: int) -> PairTokens:
    """Tokenise pairs; refuse them where a pair shares fewer than `last_tokens` last tokens."""
    positive, negative = (
        tokenize(base.tokenizer, texts) for texts in (pairs.positive, pairs.negative)
    )
    both = list(zip(positive, negative, strict=True))
    shared = [shared_tail(*pair) for pair in both]
    if min(shared) < last_tokens:
        raise InputError(
            f"a pair shares only {min(shared)} last tokens: lower last_tokens ({last_tokens})"
        )
    # Nothing predicts a text's first token.
    shared = [
        min(count, *(len(ids) - 1 for ids in pair))
        for count, pair in zip(shared, both, strict=True)
    ]
    texts = [ids for pair in both for ids in pair]
    check_length(base.model, max(map(len, texts)))
    left = torch.arange(max(shared), 0, -1)
    chosen = (left <= torch.tensor(shared)[:, None, None]).expand(-1, 2, -1).to(base.device)
    together = shares_rows(base.model, texts, base.pad_id)
    return PairTokens(texts, shared, chosen, base.pad_id, together)


@dataclass
class BasePass:
    """What the base model makes of n pairs, computed once; values by token as in `by_text`."""

    states: Tensor
    """[n, 2, d]: mean over the last tokens at the loss layer."""
    nll: Tensor
    """[n, 2, t]"""
    entropy: Tensor | None
    """[n, 2, t] nats; None unless distributions are asked for."""
    final: Tensor | None
    """[n, 2, t, d]: final states that predict the tokens, which give the distributions back."""

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
    """[2, b, t]: total variation from the base, where its final states were given. It is of the
    positive text in the first copy, of the negative one in the second."""
    final: Tensor
    """[repeats, p, d]: final states that predict the batch's tokens."""


def run_pairs(
    model: nn.Module, layer: nn.Module, batch: PairBatch, last_tokens: int, repeats: int = 1,
    base: Tensor | None = None, depth: int = 0,
) -> Outcome:  # fmt: skip
    """Run the batch's rows `repeats` times in one forward pass, the first `depth` layers once.

    `base` [b, 2, t, d] are the base model's final states, beside two copies.
    """
    laid = batch.laid
    with read_layers([layer]) as seen:
        hidden = repeat_rows(model, laid.rows, repeats, depth)
    ends = states_at(seen[0].unflatten(0, (repeats, -1)), [at[-last_tokens:] for at in laid.at])
    states = ends.float().mean(2).to(hidden.device).unflatten(1, (-1, 2))
    final = states_at(hidden, batch.before)
    if base is None:
        flat = state_nll(model, final.flatten(0, 1), batch.ids.repeat(repeats))
        nll, shift = flat.unflatten(0, (repeats, -1)), None
    else:
        first = batch.positive[:, None]
        up, down = final
        read, other = torch.where(first, up, down), torch.where(first, down, up)
        plain = base.flatten(0, 2)[batch.first]
        read_nll, moved = state_shift(model, read, batch.ids, plain)
        both = read_nll, state_nll(model, other, batch.ids)
        nll = torch.stack([torch.where(batch.positive, *each) for each in (both, both[::-1])])
        shift = batch.by_text(moved[None])[0].transpose(0, 1)
    return Outcome(states, batch.by_text(nll), shift, final)


@torch.no_grad()
def base_pass(
    model: nn.Module, layer: nn.Module, data: PairTokens, last_tokens: int, size: int,
    distribution: bool = False,
) -> BasePass:  # fmt: skip
    """Run all pairs, `size` at a time; `distribution` keeps what gives distributions back."""
    states = []
    nll = torch.zeros(data.chosen.shape, device=data.chosen.device)
    entropy = nll.clone() if distribution else None
    final: Tensor | None = None
    for start in range(0, len(data.shared), size):
        rows = list(range(start, min(start + size, len(data.shared))))
        part = data.batch(rows)
        outcome = run_pairs(model, layer, part, last_tokens)
        width = part.chosen.shape[-1]
        states.append(outcome.states[0])
        nll[rows, :, -width:] = outcome.nll[0]
        if entropy is not None:
            if final is None:
                final = outcome.final.new_zeros(*nll.shape, outcome.final.shape[-1])
            final[rows, :, -width:] = part.by_text(outcome.final)[0]
            by_token = state_entropy(model, outcome.final[0])
            entropy[rows, :, -width:] = part.by_text(by_token[None])[0]
    return BasePass(torch.cat(states), nll, entropy, final)
