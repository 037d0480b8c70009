"""Answers at several coefficients side by side: one batch, one KV cache, streamed token by
token.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.lm.decoding import check_logits, decode, stop_tokens
from pipeline.lm.prompts import Message, open_turn, pad_left, tokenize
from pipeline.steering.base import Attachable, attached
from pipeline.support.errors import InputError


def answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, adapter: Attachable, messages: list[Message],
    coefficients: Sequence[float], max_new_tokens: int, options: dict[str, Any] | None = None,
    temperature: float = 0.0, seed: int = 0,
) -> Iterator[list[str]]:  # fmt: skip
    """Yield after every token the answers so far, one per coefficient, all from one batch; a row
    ends at its EOS.

    `options` are further variables of the chat template. Temperature 0 is greedy decoding; above it
    all rows share the random draws, so that they differ by the steering alone. The model is steered
    only while a token is computed. Raises InputError for arguments out of range, a conversation
    that is too long and logits that are not finite.
    """
    check_request(tokenizer, coefficients, max_new_tokens, temperature)
    rewritten = [adapter.rewrite(messages, c) for c in coefficients]
    texts = [open_turn(tokenizer, chat, options or {}) for chat in rewritten]
    ids, mask = pad_left(tokenize(tokenizer, texts), tokenizer.pad_token_id or 0, model.device)
    stops, generator = stop_tokens(model, tokenizer), torch.Generator().manual_seed(seed)
    hooks = adapter.hooks(model, torch.tensor(coefficients, dtype=torch.float32))

    def pick(logits: Tensor) -> Tensor:
        check_logits(logits, coefficients)
        return choose(logits, temperature, generator)

    for found in decode(
        model,
        ids,
        mask,
        max_new_tokens,
        pick,
        lambda row: row[-1] in stops,
        lambda: attached(model, hooks),
    ):
        yield [readable(tokenizer, [token for token in row if token not in stops]) for row in found]


def check_request(
    tokenizer: PreTrainedTokenizerBase,
    coefficients: Sequence[float],
    max_new_tokens: int,
    temperature: float,
) -> None:
    if not tokenizer.chat_template:
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


def choose(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Return one token id per row [b] of logits [b, v]: the largest, or one drawn by the same noise
    [v] in every row.
    """
    if temperature == 0:
        return logits.argmax(-1)
    # argmax(logits / T + Gumbel noise) is a draw from softmax(logits / T).
    noise = -torch.empty(logits.shape[-1]).exponential_(generator=generator).log()
    return (logits.float() / temperature + noise.to(logits.device)).argmax(-1)


def readable(tokenizer: PreTrainedTokenizerBase, row: list[int]) -> str:
    """Decode without a character at the end of which only some bytes are there yet."""
    return tokenizer.decode(row, skip_special_tokens=True).rstrip("\ufffd")
