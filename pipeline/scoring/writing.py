"""What a steered model writes to prompts: greedy, batched over rows with one coefficient per
row.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.lm.batches import in_batches
from pipeline.lm.decoding import check_logits, continuation, decode, stop_tokens
from pipeline.lm.prompts import pad_left, tokenize
from pipeline.steering.base import Attachable

NONE = -1  # fills the ids of rows that ended early


@dataclass(frozen=True)
class Written:
    """The ids of one row's text, an end of text (EOS) included, the text without it, and whether it
    ended so.
    """

    ids: list[int]
    text: str
    ended: bool


def write(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], coefficients: Sequence[float],
    steering: Attachable | None, batch_size: int, count: int, closes: Callable[[list[int]], bool], title: str,
) -> list[Written]:  # fmt: skip
    """Continue each rendered prompt at its coefficient by up to `count` tokens; a row ends at EOS
    or where `closes` says so.

    Rows are sorted by length and steered in one go; the rows of a batch equal the same rows run
    alone.
    """
    encoded, stops = tokenize(tokenizer, list(prompts)), stop_tokens(model, tokenizer)
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))

    def work(part: list[int]) -> Tensor:
        ids, mask = pad_left(
            [encoded[index] for index in part], tokenizer.pad_token_id or 0, model.device
        )
        own = [coefficients[index] for index in part]

        def choose(logits: Tensor) -> Tensor:
            check_logits(logits, own)
            return logits.argmax(-1)

        with steering.steer(model, torch.tensor(own)) if steering else nullcontext():
            *_, rows = decode(
                model, ids, mask, count, choose, lambda row: row[-1] in stops or closes(row)
            )
        return torch.tensor([row + [NONE] * (count - len(row)) for row in rows])

    found: list[Written | None] = [None] * len(order)
    for index, row in zip(order, in_batches(order, batch_size, work, title).tolist(), strict=True):
        ids = [token for token in row if token != NONE]
        ended = ids[-1] in stops
        found[index] = Written(
            ids, continuation(tokenizer, encoded[index], ids[:-1] if ended else ids), ended
        )
    return [written for written in found if written]
