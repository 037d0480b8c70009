"""What distillation learns from: the pairs' texts without a persona, and the base on all three."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.lm.base import Base
from pipeline.lm.decoding import decode, stop_tokens
from pipeline.lm.forward import ROWS, check_length, read_layers
from pipeline.lm.prefixes import lay_texts, rows_hidden, shares_rows, states_at
from pipeline.lm.prompts import pad_left, tokenize
from pipeline.steering.base import Pairs
from pipeline.steering.pair_batches import shared_tail
from pipeline.support.errors import InputError

CONTINUATION = 16  # tokens that the base writes after each text, for the budget: our own


@dataclass
class Lessons:
    """n pairs of one split: texts without a persona, and what the base makes of all three."""

    texts: list[list[int]]
    """Tokens without a persona, then all but the last of the base's own continuation."""
    shared: list[int]
    """How many last tokens of the text itself the personas' texts have too."""
    written: list[int]
    """How many tokens the continuation has."""
    taught: list[Tensor]
    """[3, shared, d] each: final states under the positive, the negative and no persona."""
    plain: list[Tensor]
    """[written, d] each: final states of the base that predict the continuation."""
    differences: Tensor
    """[n, 2, d]: states at the loss layer, positive and negative, mean over the last tokens."""
    together: bool
    """Whether the model's texts can share a row."""
    held_out: bool = False

    def __len__(self) -> int:
        return len(self.texts)

    def width(self, rows: list[int]) -> int:
        return 0  # nothing here is by column


@torch.no_grad()
def lessons(
    base: Base, pairs: Pairs, layer: nn.Module, last_tokens: int, budget: float, held_out: bool
) -> Lessons:
    """Run the base once over the three texts of each pair; with a budget, let it write on."""
    positive, negative, texts = (tokenize(base.tokenizer, part) for part in pairs)
    shared = [
        min(shared_tail(first, own), shared_tail(second, own), len(own) - 1)
        for first, second, own in zip(positive, negative, texts, strict=True)
    ]
    if min(shared) < last_tokens:
        raise InputError(
            f"a pair shares only {min(shared)} last tokens with the text without a persona: lower "
            f"training.last_tokens ({last_tokens})"
        )
    replies = continuations(base, texts) if budget else [[] for _ in texts]
    written = [len(reply) for reply in replies]
    longer = [own + reply[:-1] for own, reply in zip(texts, replies, strict=True)]
    together = shares_rows(base.model, texts, base.pad_id)
    taught_by, at_layer = [], []
    for part in (positive, negative):
        states, means = run_base(base, part, shared, layer, last_tokens, together)
        taught_by.append(states)
        at_layer.append(means)
    counts = [m + max(0, t - 1) for m, t in zip(shared, written, strict=True)]
    own, _ = run_base(base, longer, counts, layer, last_tokens, together)
    taught_by.append([states[:m] for states, m in zip(own, shared, strict=True)])
    taught = [torch.stack(states) for states in zip(*taught_by, strict=True)]
    plain = [states[len(states) - t :] for states, t in zip(own, written, strict=True)]
    differences = torch.stack(at_layer, dim=1)
    return Lessons(longer, shared, written, taught, plain, differences, together, held_out)


def run_base(
    base: Base, texts: list[list[int]], counts: list[int], layer: nn.Module, last_tokens: int,
    together: bool,
) -> tuple[list[Tensor], Tensor]:  # fmt: skip
    """Return each text's last final states [count, d], and the layer's mean [n, d] at its end."""
    check_length(base.model, max(map(len, texts)))
    final: list[Tensor] = []
    means = []
    for start in range(0, len(texts), ROWS):
        part = slice(start, start + ROWS)
        laid = lay_texts(texts[part], base.pad_id, base.device, together)
        with read_layers([layer]) as seen:
            states = rows_hidden(base.model, laid.rows)[None]
        tails = zip(laid.at, counts[part], strict=True)
        final += [states_at(states, at[len(at) - count :])[0] for at, count in tails]
        ends = states_at(seen[0][None].to(base.device), [at[-last_tokens:] for at in laid.at])
        means.append(ends[0].float().mean(1))
    return final, torch.cat(means)


def continuations(base: Base, texts: list[list[int]]) -> list[list[int]]:
    """Return what the base writes after each text, greedily; what ends a reply is kept."""
    model, stops = base.model, stop_tokens(base.model, base.tokenizer)
    replies: list[list[int]] = []
    for start in range(0, len(texts), ROWS):
        ids, mask = pad_left(texts[start : start + ROWS], base.pad_id, base.device)
        *_, last = decode(
            model, ids, mask, CONTINUATION, lambda x: x.argmax(-1), lambda row: row[-1] in stops
        )
        replies += [list(row) for row in last]
    return replies
