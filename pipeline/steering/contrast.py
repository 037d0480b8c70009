"""Contrast pairs as tensors, and what the base model makes of them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.errors import InputError
from pipeline.lm.forward import last_hidden, read_layers, token_nll
from pipeline.lm.prompts import pad_left, tokenize
from pipeline.steering.base import Pairs


@dataclass
class PairTensors:
    """n pairs of left-padded texts: ids, mask and chosen (the tokens both texts share) are [n, 2, t]."""

    ids: Tensor
    mask: Tensor
    chosen: Tensor
    lengths: list[int]

    def batch(self, rows: list[int]) -> "PairTensors":
        """Return some pairs, without the columns that are padding in all of them."""
        lengths = [self.lengths[row] for row in rows]
        width = max(lengths)
        ids, mask, chosen = (tensor[rows][..., -width:] for tensor in (self.ids, self.mask, self.chosen))
        return PairTensors(ids, mask, chosen, lengths)


def shared_tail(first: list[int], second: list[int]) -> int:
    """Return how many last tokens two rows have in common."""
    count = 0
    while count < min(len(first), len(second)) and first[-1 - count] == second[-1 - count]:
        count += 1
    return count


def pair_tensors(tokenizer: PreTrainedTokenizerBase, pairs: Pairs, last_tokens: int, device: torch.device) -> PairTensors:
    positive, negative = tokenize(tokenizer, pairs.positive), tokenize(tokenizer, pairs.negative)
    tails = [shared_tail(*pair) for pair in zip(positive, negative, strict=True)]
    if not tails:
        raise InputError("there are no pairs in a split: raise pairs.max_pairs or change pairs.calibration_share")
    if min(tails) < last_tokens:
        raise InputError(f"a pair shares only {min(tails)} last tokens: lower last_tokens ({last_tokens})")
    rows = [row for pair in zip(positive, negative, strict=True) for row in pair]
    ids, mask = pad_left(rows, tokenizer.pad_token_id, device)
    width = ids.shape[1]
    chosen = torch.arange(width) >= width - torch.tensor(tails)[:, None].repeat_interleave(2, 0)
    chosen[:, 0] = False  # nothing predicts the first column
    lengths = [max(map(len, pair)) for pair in zip(positive, negative, strict=True)]
    ids, mask, chosen = (tensor.view(-1, 2, width) for tensor in (ids, mask, chosen.to(device)))
    return PairTensors(ids, mask, chosen, lengths)


def run(model: PreTrainedModel, layer: nn.Module, data: PairTensors, last_tokens: int, repeats: int = 1) -> tuple[Tensor, Tensor]:
    """Run all texts `repeats` times in one forward pass.

    Returns states [repeats, n, 2, d], the mean over the last tokens of `layer`'s output, and nll [repeats, n, 2, t].
    """
    ids, mask, chosen = (tensor.flatten(0, 1).repeat(repeats, 1) for tensor in (data.ids, data.mask, data.chosen))
    with read_layers([layer]) as seen:
        hidden = last_hidden(model, ids, mask)
    states = seen[0][:, -last_tokens:].float().mean(1)
    flat = token_nll(model, hidden, ids, chosen)
    nll = torch.zeros(ids.shape, device=ids.device).masked_scatter(chosen, flat)
    pairs = len(data.lengths)
    return states.view(repeats, pairs, 2, -1), nll.view(repeats, pairs, 2, -1)


@torch.no_grad()
def base_pass(model: PreTrainedModel, layer: nn.Module, data: PairTensors, last_tokens: int, size: int) -> tuple[Tensor, Tensor]:
    """Return the base model's states [n, 2, d] and nll [n, 2, t] of all pairs, computed once."""
    states, nll = [], torch.zeros(data.ids.shape, device=data.ids.device)
    for start in range(0, len(data.lengths), size):
        rows = list(range(start, min(start + size, len(data.lengths))))
        found, losses = run(model, layer, data.batch(rows), last_tokens)
        states.append(found[0])
        nll[rows, :, -losses.shape[-1] :] = losses[0]
    return torch.cat(states), nll
