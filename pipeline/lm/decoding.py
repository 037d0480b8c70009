"""Decoding with a KV cache: rows of a batch grow token by token until each is closed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipeline.lm.forward import position_limit, token_positions
from pipeline.support.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TAIL = 4  # prompt tokens decoded along with a reply, for tokenizers that drop a text's first space


@torch.no_grad()
def decode(
    model: PreTrainedModel, ids: Tensor, mask: Tensor, count: int,
    choose: Callable[[Tensor], Tensor], closes: Callable[[list[int]], bool],
    attach: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Iterator[list[list[int]]]:  # fmt: skip
    """Yield after every token the new ids of each row so far, until all rows have ended.

    `ids` [b, t] are left-padded prompts; `count` is the most tokens to write. `choose` makes
    tokens [b] of logits [b, v]. `closes` says whether a row's last token, which is kept, ends it.
    `attach` is entered while a token is computed. Raises InputError for prompts too long.
    """
    if ids.shape[1] + count > (limit := position_limit(model)):
        said = f"{ids.shape[1]} tokens and {count} new ones are more than the model's {limit}"
        raise InputError(f"{said}: shorten one of them")
    rows: list[list[int]] = [[] for _ in ids]
    running = [True] * len(rows)
    cached: dict[str, Any] = {"past_key_values": None, "use_cache": True, "logits_to_keep": 1}
    fed = ids
    for _ in range(count):
        places = token_positions(mask)[:, -fed.shape[1] :]
        with attach():
            output = model(input_ids=fed, attention_mask=mask, position_ids=places, **cached)
        tokens = choose(output.logits[:, -1])
        cached["past_key_values"] = output.past_key_values
        for index, token in enumerate(tokens.tolist()):
            if running[index]:
                rows[index].append(token)
                running[index] = not closes(rows[index])
        yield rows
        if not any(running):
            return
        fed = tokens[:, None]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)


def stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return every id that ends an answer; a model may name several, its tokenizer another."""
    own = model.generation_config.eos_token_id
    named = [*(own if isinstance(own, list) else [own]), tokenizer.eos_token_id]
    return {token for token in named if token is not None}


def check_logits(logits: Tensor, coefficients: Sequence[float]) -> None:
    """Refuse rows [b, v] whose largest logit is no number; argmax would return some token."""
    finite = logits.max(-1).values.isfinite().tolist()
    if bad := [c for c, fine in zip(coefficients, finite, strict=True) if not fine]:
        raise InputError(
            f"the model's logits are not finite at coefficients {bad}: take smaller ones"
        )


def continuation(tokenizer: PreTrainedTokenizerBase, prompt: list[int], ids: list[int]) -> str:
    """Return the text that new ids add to a prompt's, without a character that is not whole yet."""
    before, whole = (
        tokenizer.decode([*prompt[-TAIL:], *new], clean_up_tokenization_spaces=False)
        for new in ([], ids)
    )
    return whole[len(before) :].rstrip("\ufffd")
