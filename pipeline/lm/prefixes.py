"""Texts with a common beginning as one row: the beginning once, then the end of each text.

    row:         padding | beginning | end of text 1 | end of text 2
    positions:             0 ... P-1 | P ...         | P ...

A token attends to the beginning and to its own end, at distances counted in positions. So every
text is computed as if alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.support.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WORTH = 0.9  # of the tokens one by one: with more than these, sharing a row is no gain
KINDS = {False: "full_attention", True: "sliding_attention"}  # transformers' names


@dataclass(frozen=True)
class Bundle:
    """Token ids of texts: what they share, and each one's own end (never empty)."""

    shared: list[int]
    ends: list[list[int]]

    @classmethod
    def of(cls, texts: list[list[int]]) -> Bundle:
        """Return texts on what they share; a single one shares nothing."""
        shared = min((common_length(texts[0], other) for other in texts[1:]), default=0)
        return cls(texts[0][:shared], [ids[shared:] for ids in texts])

    def __len__(self) -> int:
        return len(self.shared) + sum(map(len, self.ends))


def common_length(first: list[int], second: list[int]) -> int:
    """Return how many first tokens two texts share, short of the whole of either."""
    limit = min(len(first), len(second)) - 1
    return next((i for i in range(limit) if first[i] != second[i]), limit)


def pair_up(texts: list[list[int]]) -> list[list[int]]:
    """Group the indices of distinct texts: best neighbours that share half, or singles."""
    order = sorted(range(len(texts)), key=texts.__getitem__)
    neighbours = zip(order, order[1:], strict=False)
    lengths = [common_length(texts[a], texts[b]) for a, b in neighbours] + [0, 0]
    groups = []
    at = 0
    while at < len(order):
        alike = 2 * lengths[at] >= len(texts[order[at]]) and lengths[at] >= lengths[at + 1]
        groups.append(order[at : at + 1 + alike])
        at += 1 + alike
    return groups


def grouped(texts: list[list[int]]) -> list[list[int]]:
    """Group the indices of texts so that each group's common beginning, run once, saves tokens.

    Over sorted texts, one joins k others with beginning p where their beginning q with it has
    q > (k - 1) (p - q). Then its own beginning would cost more than what the others lose.
    """
    groups: list[list[int]] = []
    held = 0
    for index in sorted(range(len(texts)), key=texts.__getitem__):
        if groups:
            group = groups[-1]
            common = min(common_length(texts[group[-1]], texts[index]), held or len(texts[index]))
            if common > (len(group) - 1) * (held - common):
                group.append(index)
                held = common
                continue
        groups.append([index])
        held = 0
    return groups


class Rows(NamedTuple):
    """Bundles as left-padded rows."""

    ids: Tensor
    """[b, w]"""
    positions: Tensor
    """[b, w], within the text."""
    branch: Tensor
    """[b, w]: -1 padding, 0 beginning, j the end of text j."""
    before: Tensor
    """[b, w]: the column of the token before."""
    last: Tensor
    """[b, k]: the column of each text's last token, or the row's last column for no text."""

    def take(self, index: Tensor) -> Rows:
        return Rows(*(tensor[index] for tensor in self))

    def of_text(self, number: int) -> Tensor:
        """Return where [b, w] the tokens of text `number` are, counted from 1."""
        return (self.branch == 0) | (self.branch == number)


def lay_out(bundles: list[Bundle], pad_id: int, device: torch.device) -> Rows:
    width = max(map(len, bundles))
    most = max(len(bundle.ends) for bundle in bundles)
    rows = [lay_out_one(bundle, width, most, pad_id) for bundle in bundles]
    columns = zip(*rows, strict=True)
    return Rows(*(torch.tensor(column, device=device) for column in columns))


class Laid(NamedTuple):
    """Texts as rows that run their common beginnings once."""

    rows: Rows
    at: list[list[int]]
    """Where each text's tokens lie in the flattened rows [b w]."""


def lay_texts(
    texts: list[list[int]], pad_id: int, device: torch.device, together: bool = True
) -> Laid:
    """Lay texts behind their common beginnings, or one by one where that saves too few tokens."""
    laid = place(texts, grouped(texts), pad_id) if together else None
    if laid is None or laid.rows.ids.numel() > WORTH * max(map(len, texts)) * len(texts):
        laid = place(texts, [[index] for index in range(len(texts))], pad_id)
    return Laid(Rows(*(part.to(device, non_blocking=True) for part in laid.rows)), laid.at)


def place(texts: list[list[int]], groups: list[list[int]], pad_id: int) -> Laid:
    """Lay each group of texts out as one row, on the CPU."""
    bundles = [Bundle.of([texts[index] for index in group]) for group in groups]
    width = max(map(len, bundles))
    at: list[list[int]] = [[]] * len(texts)
    for number, (group, bundle) in enumerate(zip(groups, bundles, strict=True), start=1):
        start = number * width - len(bundle)
        end = start + len(bundle.shared)
        beginning = range(start, end)
        for index, own in zip(group, bundle.ends, strict=True):
            at[index] = [*beginning, *range(end, end + len(own))]
            end += len(own)
    return Laid(lay_out(bundles, pad_id, torch.device("cpu")), at)


def states_at(states: Tensor, places: list) -> Tensor:
    """Return the states [r, *, d] of r copies [r, b, w, d] of rows, at places [*] as in `Laid`.

    Several texts may share a place. Its gradient is summed in the same order every time.
    """
    index = torch.tensor(places, dtype=torch.long)
    copies = torch.arange(len(states)) * states[0, ..., 0].numel()
    index = index + copies.view(-1, *[1] * index.ndim)
    return F.embedding(index.to(states.device, non_blocking=True), states.flatten(0, 2))


def lay_out_one(bundle: Bundle, width: int, most: int, pad_id: int) -> tuple[list[int], ...]:
    """Return the five columns of `Rows` for one bundle."""
    start = width - len(bundle)
    shared = len(bundle.shared)
    ids = [pad_id] * start + bundle.shared
    positions = [0] * start + list(range(shared))
    branch = [-1] * start + [0] * shared
    before = list(range(-1, len(ids) - 1))
    last = []
    for number, end in enumerate(bundle.ends, start=1):
        before += [start + shared - 1, *range(len(ids), len(ids) + len(end) - 1)]
        ids = ids + end
        positions += range(shared, shared + len(end))
        branch += [number] * len(end)
        last.append(len(ids) - 1)
    return ids, positions, branch, before, last + [width - 1] * (most - len(last))


def attention_mask(model: PreTrainedModel, rows: Rows) -> Tensor | dict[str, Tensor]:
    """Return the mask of rows: [b, w] for single texts, else [b, 1, w, w] to add to scores.

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
    from transformers import DynamicCache

    layers = DynamicCache(config=config).layers  # transformers' account of who sees how far
    windows = {bool(layer.is_sliding): getattr(layer, "sliding_window", None) for layer in layers}
    dtype = model.get_input_embeddings().weight.dtype
    masks = {KINDS[sliding]: visible(rows, window, dtype) for sliding, window in windows.items()}
    return masks if len(masks) > 1 else next(iter(masks.values()))


def visible(rows: Rows, window: int | None, dtype: torch.dtype) -> Tensor:
    """Return [b, 1, w, w]: 0 where a token (third axis) sees another one, else the minimum."""
    own = rows.branch[:, :, None]
    other = rows.branch[:, None, :]
    width = rows.ids.shape[1]
    square = torch.ones(width, width, dtype=torch.bool, device=own.device)
    allowed = ((other == own) | (other == 0)) & square.tril()
    if window is not None:
        allowed &= rows.positions[:, :, None] - rows.positions[:, None, :] < window
    allowed &= (other >= 0) | square.tril().triu()  # padding sees itself: no empty softmax
    mask = torch.zeros(allowed.shape, dtype=dtype, device=own.device)
    return mask.masked_fill(~allowed, torch.finfo(dtype).min)[:, None]


def rows_hidden(model: PreTrainedModel, rows: Rows) -> Tensor:
    """Return the final normalised hidden states [b, w, d]."""
    mask = attention_mask(model, rows)
    output = model.get_decoder()(
        input_ids=rows.ids, attention_mask=mask, position_ids=rows.positions, use_cache=False
    )
    return output.last_hidden_state.to(rows.ids.device)  # of a spread model it may lie elsewhere


@torch.no_grad()
def shares_rows(model: PreTrainedModel, texts: list[list[int]], pad_id: int) -> bool:
    """Return whether two of the texts have the states in one row that they have alone.

    Some models know no such mask (ALiBi), or have layers where texts cannot share a row.
    """
    two = sorted(texts)[:2]
    if len(two) < 2:
        return False

    def states(groups: list[list[int]]) -> Tensor:
        laid = place(two, groups, pad_id)
        hidden = rows_hidden(model, Rows(*(part.to(model.device) for part in laid.rows)))
        return states_at(hidden[None], [at[-min(map(len, two)) :] for at in laid.at]).float()

    expected = states([[0], [1]])
    try:
        error = (states([[0, 1]]) - expected).norm() / expected.norm()
    except (InputError, ValueError, TypeError, IndexError):
        return False
    return error.item() < rounding(model)


def rounding(model: PreTrainedModel) -> float:
    """Return the relative error of states that the model's own precision explains."""
    exact = model.dtype == torch.float32 and not getattr(model, "is_quantized", False)
    return 1e-3 if exact else 0.05
