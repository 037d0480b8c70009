"""What a steered model answers at several coefficients side by side, and its log-odds of Yes."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.lm.base import Base, open_answers, open_turns
from pipeline.lm.decoding import check_logits, decode, stop_tokens
from pipeline.lm.forward import last_hidden, to_logits
from pipeline.lm.prompts import Message, user_chat
from pipeline.scoring.score import answer_ids
from pipeline.steering.base import Attachable
from pipeline.steering.hooks import attached, check_acts
from pipeline.support.errors import InputError


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
    base: Base, adapter: Attachable, prompt: str | list[Message], coefficients: Sequence[float],
    max_new_tokens: int = 64, temperature: float = 0.0, seed: int = 0,
    repetition_penalty: float = 1.0,
) -> list[Reply]:  # fmt: skip
    """Return a reply per coefficient to a text or a chat; all coefficients are one batch.

    Arguments and errors are those of `answers`.
    """
    chat = user_chat(prompt) if isinstance(prompt, str) else prompt
    manner = max_new_tokens, temperature, seed, repetition_penalty
    *_, texts = answers(base, adapter, chat, coefficients, *manner)
    figures = log_odds(base, adapter, chat, coefficients)
    return [Reply(c, *own, text) for c, own, text in zip(coefficients, figures, texts, strict=True)]


@torch.no_grad()
def log_odds(
    base: Base, adapter: Attachable, chat: list[Message], coefficients: Sequence[float]
) -> list[tuple[float, float]]:
    """Return log-odds of Yes (nats) and choice mass per coefficient."""
    chats = [adapter.rewrite(chat, c) for c in coefficients]
    ids, mask = base.encode(open_answers(base, chats))
    given = torch.tensor(coefficients, dtype=torch.float32)
    with adapter.steer(base.model, adapter.unit.raw(given)):
        last = last_hidden(base.model, ids, mask)[:, -1]
    log_p = to_logits(base.model, last).log_softmax(-1)
    tokens = answer_ids(base)
    yes, no = (log_p[:, tokens[word]].logsumexp(-1) for word in ("yes", "no"))
    return list(zip((yes - no).tolist(), (yes.exp() + no.exp()).tolist(), strict=True))


def answers(
    base: Base, adapter: Attachable, messages: list[Message], coefficients: Sequence[float],
    max_new_tokens: int, temperature: float = 0.0, seed: int = 0, repetition_penalty: float = 1.0,
    raw: bool = False,
) -> Iterator[list[str]]:  # fmt: skip
    """Yield after every token the answers so far, one per coefficient; a row ends at its EOS.

    Coefficients are in units, with `raw` as trained, as in `steer`. Temperature 0 is greedy
    decoding. Above it all rows share the random draws, so that they differ by the steering alone.
    `repetition_penalty` divides the positive logits of tokens that the row has already written, and
    multiplies negative ones (CTRL, arXiv 1909.05858). The model is steered only while a token is
    computed. Raises InputError for arguments out of range, a conversation too long and logits that
    are not finite.
    """
    check_request(base, messages, coefficients, max_new_tokens, temperature, repetition_penalty)
    model, tokenizer = base.model, base.tokenizer
    ids, mask = base.encode(open_turns(base, (adapter.rewrite(messages, c) for c in coefficients)))
    stops, generator = stop_tokens(model, tokenizer), torch.Generator().manual_seed(seed)
    given = torch.tensor(coefficients, dtype=torch.float32)
    hooks = adapter.hooks(model, given if raw else adapter.unit.raw(given))
    check_acts(model, hooks, len(coefficients))
    rows: list[list[int]] = [[] for _ in coefficients]

    def pick(logits: Tensor) -> Tensor:
        check_logits(logits, coefficients)
        return choose(penalised(logits, rows, repetition_penalty), temperature, generator)

    def readable(row: list[int]) -> str:
        """Decode without a character at the end of which only some bytes are there yet."""
        said = [token for token in row if token not in stops]
        return tokenizer.decode(said, skip_special_tokens=True).rstrip("\ufffd")

    closes, attach = (lambda row: row[-1] in stops), (lambda: attached(model, hooks))
    for rows in decode(model, ids, mask, max_new_tokens, pick, closes, attach):
        yield list(map(readable, rows))


def check_request(
    base: Base, messages: list[Message], coefficients: Sequence[float], max_new_tokens: int,
    temperature: float, repetition_penalty: float,
) -> None:  # fmt: skip
    if not base.tokenizer.chat_template:
        raise InputError("the tokenizer has no chat template: take an instruction-tuned model")
    if not messages or isinstance(messages, str):
        raise InputError(f"messages {messages!r} is no chat: write [{{'role': 'user', ...}}, ...]")
    try:
        fine = len(coefficients) and all(map(math.isfinite, coefficients))
    except TypeError:
        fine = False
    if not fine:
        said = f"coefficients {coefficients} cannot be used"
        raise InputError(f"{said}: give one or more finite numbers, e.g. -1, 0 and 1")
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens is {max_new_tokens}: give 1 or more")
    if not 0 <= temperature < math.inf:
        raise InputError(f"temperature is {temperature}: give 0 for greedy decoding, or more")
    if not 1 <= repetition_penalty < math.inf:
        remedy = "give 1 for none, or more, e.g. 1.2"
        raise InputError(f"repetition_penalty is {repetition_penalty}: {remedy}")


def penalised(logits: Tensor, rows: list[list[int]], penalty: float) -> Tensor:
    """Return logits [b, v] in which each row's own tokens are less likely."""
    if penalty == 1 or not rows[0]:
        return logits
    logits = logits.clone()
    for own, written in zip(logits, rows, strict=True):
        said = own[written]
        own[written] = torch.where(said > 0, said / penalty, said * penalty)
    return logits


def choose(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Return tokens [b] of logits [b, v]: the largest, or drawn by the same noise [v] per row."""
    if temperature == 0:
        return logits.argmax(-1)
    # argmax(logits / T + Gumbel noise) is a draw from softmax(logits / T).
    noise = -torch.empty(logits.shape[-1]).exponential_(generator=generator).log()
    return (logits.float() / temperature + noise.to(logits.device)).argmax(-1)
