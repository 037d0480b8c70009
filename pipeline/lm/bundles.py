"""Texts with a common beginning as one row: the beginning once, then the end of each text.

    row:         padding | beginning | end of text 1 | end of text 2
    positions:             0 ... P-1 | P ...         | P ...

A token attends to the beginning and to its own end, at distances counted in positions, so every
text is computed as if alone.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from pipeline.support.errors import InputError

KINDS = {False: "full_attention", True: "sliding_attention"}  # transformers' names


@dataclass(frozen=True)
class Bundle:
    """Token ids of texts: what they share, and each one's own end (never empty)."""

    shared: list[int]
    ends: list[list[int]]

    def __len__(self) -> int:
        return len(self.shared) + sum(map(len, self.ends))


def common(first: list[int], second: list[int]) -> int:
    """Return how many first tokens two texts have in common, short of the whole of either."""
    limit = min(len(first), len(second)) - 1
    return next((i for i in range(limit) if first[i] != second[i]), limit)


def pair_up(texts: list[list[int]]) -> list[list[int]]:
    """Return groups of one or two indices of distinct texts: two that share at least half, each
    with its best neighbour.
    """
    order = sorted(range(len(texts)), key=texts.__getitem__)
    shares = [common(texts[a], texts[b]) for a, b in zip(order, order[1:], strict=False)] + [0, 0]
    groups, at = [], 0
    while at < len(order):
        alike = 2 * shares[at] >= len(texts[order[at]]) and shares[at] >= shares[at + 1]
        groups.append(order[at : at + 1 + alike])
        at += 1 + alike
    return groups


def bundle(texts: list[list[int]]) -> Bundle:
    """Return one text, or two texts on what they share."""
    shared = common(*texts) if len(texts) == 2 else 0
    return Bundle(texts[0][:shared], [ids[shared:] for ids in texts])


class Rows(NamedTuple):
    """Bundles as left-padded rows."""

    ids: Tensor
    """[b, w]"""
    positions: Tensor
    """[b, w] within the text."""
    branch: Tensor
    """[b, w]: -1 padding, 0 beginning, j the end of text j."""
    before: Tensor
    """[b, w]: the column of the token before."""
    last: Tensor
    """[b, k]: the column of each text's last token; the row's last column where there is no
    text.
    """

    def take(self, index: Tensor) -> "Rows":
        return Rows(*(tensor[index] for tensor in self))


def lay_out(bundles: list[Bundle], pad_id: int, device: torch.device) -> Rows:
    width, most = max(map(len, bundles)), max(len(one.ends) for one in bundles)
    columns: list[list[list[int]]] = [[], [], [], [], []]
    for one in bundles:
        start, shared = width - len(one), len(one.shared)
        ids, positions, branch = (
            [pad_id] * start + one.shared,
            [0] * start + list(range(shared)),
            [-1] * start + [0] * shared,
        )
        before, last = list(range(-1, len(ids) - 1)), []
        for number, end in enumerate(one.ends, start=1):
            before += [start + shared - 1, *range(len(ids), len(ids) + len(end) - 1)]
            ids, branch = ids + end, branch + [number] * len(end)
            positions = positions + list(range(shared, shared + len(end)))
            last.append(len(ids) - 1)
        for column, values in zip(
            columns,
            (ids, positions, branch, before, last + [width - 1] * (most - len(last))),
            strict=True,
        ):
            column.append(values)
    return Rows(*(torch.tensor(column, device=device) for column in columns))


def attention_mask(model: PreTrainedModel, rows: Rows) -> Tensor | dict[str, Tensor]:
    """Return the mask of rows: [b, w] where each holds one text, else [b, 1, w, w] to be added to
    attention scores.

    Models whose layers differ get one such mask by kind of layer. Raises InputError for kinds that
    are neither full nor sliding attention.
    """
    if rows.last.shape[1] < 2:
        return (rows.branch >= 0).long()
    config = model.config.get_text_config()
    if others := set(getattr(config, "layer_types", None) or []) - set(KINDS.values()):
        raise InputError(
            f"{type(model).__name__} has {min(others)} layers, where texts cannot share a row: set "
            "scoring.reuse false"
        )
    layers = DynamicCache(
        config=config
    ).layers  # transformers' own account of which layer sees how far
    windows = {bool(layer.is_sliding): getattr(layer, "sliding_window", None) for layer in layers}
    masks = {
        KINDS[sliding]: seen(rows, window, model.get_input_embeddings().weight.dtype)
        for sliding, window in windows.items()
    }
    return masks if len(masks) > 1 else next(iter(masks.values()))


def seen(rows: Rows, window: int | None, dtype: torch.dtype) -> Tensor:
    """Return 0 where a token (third axis) sees another one (last axis), and the dtype's minimum
    elsewhere.
    """
    own, other, width = rows.branch[:, :, None], rows.branch[:, None, :], rows.ids.shape[1]
    allowed = ((other == own) | (other == 0)) & torch.ones(
        width, width, dtype=torch.bool, device=own.device
    ).tril()
    if window is not None:
        allowed &= rows.positions[:, :, None] - rows.positions[:, None, :] < window
    allowed &= (other >= 0) | torch.eye(
        width, dtype=torch.bool, device=own.device
    )  # padding sees itself: no empty softmax
    mask = torch.zeros(allowed.shape, dtype=dtype, device=own.device)
    return mask.masked_fill(~allowed, torch.finfo(dtype).min)[:, None]


def bundle_hidden(model: PreTrainedModel, rows: Rows) -> Tensor:
    """Return the final normalised hidden states [b, w, d]."""
    mask, decoder = attention_mask(model, rows), model.base_model
    return decoder(
        input_ids=rows.ids, attention_mask=mask, position_ids=rows.positions, use_cache=False
    ).last_hidden_state
