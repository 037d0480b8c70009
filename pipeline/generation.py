"""Answers at several coefficients side by side: one batch, one KV cache, streamed token by token."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.errors import InputError
from pipeline.lm.forward import token_positions
from pipeline.lm.prompts import Message, pad_left, tokenize
from pipeline.steering.base import Attachable, attached


@torch.no_grad()
def answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, adapter: Attachable, messages: list[Message],
    coefficients: Sequence[float], max_new_tokens: int, options: dict[str, Any] | None = None,
    temperature: float = 0.0, seed: int = 0,
) -> Iterator[list[str]]:  # fmt: skip
    """Yield after every token the answers so far, one per coefficient, all from one batch; a row ends at its EOS.

    `options` are further variables of the chat template. Temperature 0 is greedy decoding; above it all rows share the
    random draws, so that they differ by the steering alone. The model is steered only while a token is computed.
    Raises InputError for arguments out of range, a conversation that is too long and logits that are not finite.
    """
    check_request(tokenizer, coefficients, max_new_tokens, temperature)
    rewritten = [adapter.rewrite(messages, c) for c in coefficients]
    texts = [tokenizer.apply_chat_template(m, tokenize=False, add_generation_prompt=True, **(options or {})) for m in rewritten]
    ids, mask = pad_left(tokenize(tokenizer, texts), tokenizer.pad_token_id or 0, model.device)
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", math.inf)
    if ids.shape[1] + max_new_tokens > limit:
        raise InputError(
            f"{ids.shape[1]} tokens and {max_new_tokens} new ones are more than the model's {limit}: shorten one of them"
        )
    stops, generator = stop_tokens(model, tokenizer), torch.Generator().manual_seed(seed)
    rows: list[list[int]] = [[] for _ in coefficients]
    running, fed, cache = [True] * len(rows), ids, None
    hooks = adapter.hooks(model, torch.tensor(coefficients, dtype=torch.float32))
    for _ in range(max_new_tokens):
        with attached(model, hooks):
            found = model(
                input_ids=fed, attention_mask=mask, position_ids=token_positions(mask)[:, -fed.shape[1] :],
                past_key_values=cache, use_cache=True, logits_to_keep=1,
            )  # fmt: skip
        logits, cache = found.logits[:, -1], found.past_key_values
        check_logits(logits, coefficients)
        tokens = choose(logits, temperature, generator)
        for index, token in enumerate(tokens.tolist()):
            running[index] = running[index] and token not in stops
            if running[index]:
                rows[index].append(token)
        yield [readable(tokenizer, row) for row in rows]
        if not any(running):
            return
        fed, mask = tokens[:, None], torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)


def check_request(
    tokenizer: PreTrainedTokenizerBase, coefficients: Sequence[float], max_new_tokens: int, temperature: float
) -> None:
    if not tokenizer.chat_template:
        raise InputError("the tokenizer has no chat template: take an instruction-tuned model")
    if not len(coefficients) or not all(map(math.isfinite, coefficients)):
        raise InputError(f"coefficients {list(coefficients)} cannot be used: give one or more finite numbers, e.g. -1, 0 and 1")
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens is {max_new_tokens}: give 1 or more")
    if not 0 <= temperature < math.inf:
        raise InputError(f"temperature is {temperature}: give 0 for greedy decoding, or more")


def stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return every token id that ends an answer; a model may name several, and its tokenizer another."""
    own = model.generation_config.eos_token_id
    return {id for id in (*(own if isinstance(own, list) else [own]), tokenizer.eos_token_id) if id is not None}


def check_logits(logits: Tensor, coefficients: Sequence[float]) -> None:
    """Refuse rows [b, v] whose largest logit is no number, where argmax would still return some token."""
    finite = logits.max(-1).values.isfinite().tolist()
    if bad := [c for c, fine in zip(coefficients, finite, strict=True) if not fine]:
        raise InputError(f"the model's logits are not finite at coefficients {bad}: take smaller ones")


def choose(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Return one token id per row [b] of logits [b, v]: the largest, or one drawn by the same noise [v] in every row."""
    if temperature == 0:
        return logits.argmax(-1)
    # argmax(logits / T + Gumbel noise) is a draw from softmax(logits / T).
    noise = -torch.empty(logits.shape[-1]).exponential_(generator=generator).log()
    return (logits.float() / temperature + noise.to(logits.device)).argmax(-1)


def readable(tokenizer: PreTrainedTokenizerBase, row: list[int]) -> str:
    """Decode without a character at the end of which only some bytes are there yet."""
    return tokenizer.decode(row, skip_special_tokens=True).rstrip("\ufffd")
