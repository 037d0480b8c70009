"""Answers at several coefficients side by side: one batch, one KV cache, streamed by token."""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from pipeline.lm.base import Base
from pipeline.lm.decoding import check_logits, decode, stop_tokens
from pipeline.lm.prompts import Message, open_turn
from pipeline.steering.base import Attachable, attached, check_acts
from pipeline.support.errors import InputError


def answers(
    base: Base,
    adapter: Attachable,
    messages: list[Message],
    coefficients: Sequence[float],
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    repetition_penalty: float = 1.0,
    raw: bool = False,
) -> Iterator[list[str]]:
    """Yield after every token the answers so far, one per coefficient; a row ends at its EOS.

    Coefficients are in units, with `raw` as trained, as in `steer`. Temperature 0 is greedy
    decoding. Above it all rows share the random draws, so that they differ by the steering alone.
    `repetition_penalty` divides the positive logits of tokens that the row has already written, and
    multiplies negative ones (CTRL, arXiv 1909.05858). The model is steered only while a token is
    computed. Raises InputError for arguments out of range, a conversation too long and logits that
    are not finite.
    """
    check_request(base, coefficients, max_new_tokens, temperature, repetition_penalty)
    model, tokenizer = base.model, base.tokenizer
    ids, mask = base.encode(
        [open_turn(tokenizer, adapter.rewrite(messages, c), base.options) for c in coefficients]
    )
    stops = stop_tokens(model, tokenizer)
    generator = torch.Generator().manual_seed(seed)
    given = torch.tensor(coefficients, dtype=torch.float32)
    hooks = adapter.hooks(model, given if raw else adapter.unit.raw(given))

    check_acts(model, hooks, len(coefficients))

    rows: list[list[int]] = [[] for _ in coefficients]

    def pick(logits: Tensor) -> Tensor:
        check_logits(logits, coefficients)
        return choose(penalised(logits, rows, repetition_penalty), temperature, generator)

    def ends(row: list[int]) -> bool:
        return row[-1] in stops

    def attach() -> AbstractContextManager[None]:
        return attached(model, hooks)

    for rows in decode(model, ids, mask, max_new_tokens, pick, ends, attach):
        yield [readable(tokenizer, [token for token in row if token not in stops]) for row in rows]


def check_request(
    base: Base,
    coefficients: Sequence[float],
    max_new_tokens: int,
    temperature: float,
    repetition_penalty: float,
) -> None:
    if not base.tokenizer.chat_template:
        raise InputError("the tokenizer has no chat template: take an instruction-tuned model")
    if not len(coefficients) or not all(map(math.isfinite, coefficients)):
        raise InputError(
            f"coefficients {list(coefficients)} cannot be used: give one or more finite numbers, "
            "e.g. -1, 0 and 1"
        )
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens is {max_new_tokens}: give 1 or more")
    if not 0 <= temperature < math.inf:
        raise InputError(f"temperature is {temperature}: give 0 for greedy decoding, or more")
    if not 1 <= repetition_penalty < math.inf:
        raise InputError(
            f"repetition_penalty is {repetition_penalty}: give 1 for none, or more, e.g. 1.2"
        )


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


def readable(tokenizer: PreTrainedTokenizerBase, row: list[int]) -> str:
    """Decode without a character at the end of which only some bytes are there yet."""
    return tokenizer.decode(row, skip_special_tokens=True).rstrip("\ufffd")
