"""What a steered model writes to prompts: greedy, in batches with one coefficient per row."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.lm.base import Base
from pipeline.lm.batches import in_batches
from pipeline.lm.decoding import check_logits, continuation, decode, stop_tokens
from pipeline.lm.prompts import pad_left, tokenize
from pipeline.steering.base import Attachable

NONE = -1  # fills the ids of rows that ended early


@dataclass(frozen=True)
class Written:
    """The ids of a row's text with its end of text (EOS), and the text without it."""

    ids: list[int]
    text: str
    ended: bool


def write(
    base: Base, prompts: Sequence[str], coefficients: Sequence[float], steering: Attachable,
    count: int, title: str, closes: Callable[[list[int]], bool] = lambda _: False,
) -> list[Written]:  # fmt: skip
    """Continue each rendered prompt at its coefficient by up to `count` tokens.

    A row ends at EOS or where `closes` says so. The rows of a batch equal the same rows alone.
    """
    encoded = tokenize(base.tokenizer, list(prompts))
    stops = stop_tokens(base.model, base.tokenizer)
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))

    def work(part: list[int]) -> Tensor:
        ids, mask = pad_left([encoded[index] for index in part], base.pad_id, base.device)
        own = [coefficients[index] for index in part]

        def likeliest(logits: Tensor) -> Tensor:
            check_logits(logits, own)
            return logits.argmax(-1)

        def ends(row: list[int]) -> bool:
            return row[-1] in stops or closes(row)

        with steering.steer(base.model, torch.tensor(own)):
            *_, rows = decode(base.model, ids, mask, count, likeliest, ends)
        return torch.tensor([row + [NONE] * (count - len(row)) for row in rows])

    def written(index: int, row: list[int]) -> Written:
        ids = [token for token in row if token != NONE]
        ended = ids[-1] in stops
        said = continuation(base.tokenizer, encoded[index], ids[:-1] if ended else ids)
        return Written(ids, said, ended)

    padded = in_batches(order, base.batch_size, work, title).tolist()
    rows = dict(zip(order, padded, strict=True))
    return [written(index, rows[index]) for index in range(len(order))]
