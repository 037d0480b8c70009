"""One prompt at several coefficients: the log-odds of Yes, and what the model answers."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from pipeline.app.answers import answers
from pipeline.lm.base import Base
from pipeline.lm.forward import last_hidden, to_logits
from pipeline.lm.prompts import Message, chat_text
from pipeline.scoring.score import answer_ids
from pipeline.steering.base import Attachable, attached


class Reply(NamedTuple):
    """What a model does with a prompt at one coefficient."""

    coefficient: float
    log_odds: float
    """log p(Yes) - log p(No) in nats, where the reply begins with the base's `answer_prefix`."""
    choice_mass: float
    """p(Yes) + p(No); where it is low, the log-odds say little."""
    text: str
    """What it answers by itself."""


def ask(
    base: Base,
    adapter: Attachable,
    prompt: str | list[Message],
    coefficients: Sequence[float],
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
    repetition_penalty: float = 1.0,
) -> list[Reply]:
    """Return a reply per coefficient to a text or a chat; all coefficients are one batch.

    Arguments and errors are those of `answers`.
    """
    chat: list[Message] = prompt if isinstance(prompt, list) else [user(prompt)]
    manner = max_new_tokens, temperature, seed, repetition_penalty
    *_, texts = answers(base, adapter, chat, coefficients, *manner)
    figures = log_odds(base, adapter, chat, coefficients)
    return [Reply(c, *own, text) for c, own, text in zip(coefficients, figures, texts, strict=True)]


def user(text: str) -> Message:
    return {"role": "user", "content": text}


@torch.no_grad()
def log_odds(
    base: Base, adapter: Attachable, chat: list[Message], coefficients: Sequence[float]
) -> list[tuple[float, float]]:
    """Return log-odds of Yes (nats) and choice mass per coefficient."""
    texts = [
        chat_text(base.tokenizer, adapter.rewrite(chat, c), base.answer_prefix, base.options)
        for c in coefficients
    ]
    ids, mask = base.encode(texts)
    given = torch.tensor(coefficients, dtype=torch.float32)
    hooks = adapter.hooks(base.model, adapter.unit.raw(given))
    with attached(base.model, hooks):
        last = last_hidden(base.model, ids, mask)[:, -1]
    log_p = to_logits(base.model, last).log_softmax(-1)
    tokens = answer_ids(base)
    yes, no = (log_p[:, tokens[word]].logsumexp(-1) for word in ("yes", "no"))
    return list(zip((yes - no).tolist(), (yes.exp() + no.exp()).tolist(), strict=True))
