"""Whether the personas of a behaviour move the model at all, before anything is fitted to them.

    shift = mean over all tokens that both texts of a pair share at their end of
            (KL(p_positive || p_negative) + KL(p_negative || p_positive)) / 2

It is in nats per token; p is the untouched model's prediction of that token. The published check
asks for a log-ratio range of 0.1 nats between the personas on one question (method of AntiPaSTO).
"""

import torch

from pipeline.lm.base import Base
from pipeline.lm.forward import ROWS, last_hidden, tails, token_kl
from pipeline.lm.prompts import tokenize
from pipeline.steering.pair_batches import shared_tail

FEW = 0.1  # nats per token, as in the published check


@torch.no_grad()
def persona_shift(base: Base, positive: list[str], negative: list[str]) -> float:
    """Return how far the two personas' predictions lie apart, in nats per token."""
    total, count = 0.0, 0
    for start in range(0, len(positive), ROWS // 2):
        part = slice(start, start + ROWS // 2)
        shared = shared_ends(base, positive[part], negative[part])
        ids, mask = base.encode(positive[part] + negative[part])
        first, second = last_hidden(base.model, ids, mask).chunk(2)
        places = tails(shared, ids.shape[1], ids.device)
        for one, other in ((first, second), (second, first)):
            total += token_kl(base.model, one, other, places).sum().item() / 2
        count += sum(shared)
    return total / count


def shared_ends(base: Base, positive: list[str], negative: list[str]) -> list[int]:
    """Return how many last tokens the two texts of each pair have in common."""
    pairs = zip(tokenize(base.tokenizer, positive), tokenize(base.tokenizer, negative), strict=True)
    return [shared_tail(*pair) for pair in pairs]
