"""Which r of a module's singular triples an SVD adapter gets, and the states by which it chooses
them.

AntiPaSTO (arXiv 2601.07473, code of 2026-02-08) takes a third each by what the positive texts use,
what the negative ones use and what their mean difference needs. There the last position was counted
from the left although the padding is on the left; here it is the right edge, every text's last
token.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.lm.forward import ROWS, last_hidden, layer_output
from pipeline.lm.layers import decoder_layers
from pipeline.lm.prompts import pad_left, tokenize
from pipeline.steering.base import Pairs
from pipeline.steering.svd import Factors
from pipeline.support.errors import InputError


def choose(
    kind: str, factors: Factors, rank: int, states: Tensor | None, writes: bool, generator: torch.Generator
) -> Tensor:  # fmt: skip
    """Return the indices [rank] of the chosen triples, int64, ascending: `top`, `random` or
    `data_aware`.

    Only `data_aware` reads `states` [n, 2, d], the residual stream (positive, negative) that enters
    the module's layer, and `writes`, whether the module writes to that stream (its basis is U) or
    reads it (V). Only `random` draws from `generator`. Raises InputError for a rank above the
    number of triples, and where d is not the basis's size.
    """
    count = len(factors.S)
    if rank > count:
        raise InputError(
            f"rank {rank} is above the {count} cached singular triples: lower rank or raise "
            "svd.max_rank"
        )
    match kind:
        case "top":
            found = torch.arange(rank)
        case "random":
            found = torch.randperm(count, generator=generator, device=generator.device)[:rank]
        case "data_aware":
            if states is None:
                raise ValueError("data_aware dimensions need states")
            found = by_states(factors, rank, states, writes)
        case _:
            raise ValueError(f"unknown choice of dimensions {kind!r}")
    return found.sort().values.to(factors.S.device)


def by_states(factors: Factors, rank: int, states: Tensor, writes: bool) -> Tensor:
    """Return the union of three top lists, filled up to `rank` by the best of the three scores; in
    no order.

    With a = h B: S mean|a_pos| and S mean|a_neg| for a third each, S |mean(a_pos - a_neg)| for the
    rest. On a tie the larger singular value goes first.
    """
    basis, side = (factors.U, "output") if writes else (factors.V, "input")
    if len(basis) != states.shape[-1]:
        raise InputError(
            f"a target module's {side} has {len(basis)} dimensions but the residual stream "
            f"{states.shape[-1]}: "
            "choose modules that write to or read from the stream, or other dimensions than "
            "data_aware"
        )
    positive, negative = (states.to(basis) @ basis).unbind(1)
    needs = [positive.abs().mean(0), negative.abs().mean(0), (positive - negative).mean(0).abs()]
    scores = factors.S * torch.stack(needs)
    third = rank // 3
    order = scores.argsort(dim=1, descending=True, stable=True)
    taken = torch.cat(
        [row[:size] for row, size in zip(order, (third, third, rank - 2 * third), strict=True)]
    )
    best = scores.amax(0).index_fill(0, taken, torch.inf)
    return best.argsort(descending=True, stable=True)[:rank]


def entering_states(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs, layers: list[int]
) -> dict[int, Tensor]:  # fmt: skip
    """Return, for each decoder layer, what enters it at the texts' last token: [n, 2, d] (positive,
    negative), float32.
    """
    return dict(
        zip(layers, residual_stream(model, tokenizer, pairs, layers).unbind(2), strict=True)
    )


@torch.no_grad()
def residual_stream(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs, places: list[int]
) -> Tensor:  # fmt: skip
    """Return the residual stream [n, 2, k, d] at the texts' last token, float32, pairs as
    (positive, negative).

    Place l of the k places is the input of decoder layer l; the number of layers is the output of
    the last one, not yet normalised. Raises InputError if there are no pairs or a state is not
    finite.
    """
    texts = [text for pair in zip(pairs.positive, pairs.negative, strict=True) for text in pair]
    if not texts:
        raise InputError(
            "there are no pairs in a split: raise pairs.max_pairs or change pairs.calibration_share"
        )
    parts = []
    with read_stream(model, places, model.device) as seen:
        for start in range(0, len(texts), ROWS):
            ids, mask = pad_left(
                tokenize(tokenizer, texts[start : start + ROWS]),
                tokenizer.pad_token_id,
                model.device,
            )
            last_hidden(model, ids, mask)
            parts.append(torch.stack([seen[place] for place in places], dim=1))
    states = torch.cat(parts).unflatten(0, (-1, 2))
    if not states.isfinite().all():
        raise InputError(
            "the base model's states are not finite: set models.<id>.dtype to bfloat16 or float32"
        )
    return states


@contextmanager
def read_stream(
    model: PreTrainedModel, places: list[int], device: torch.device
) -> Iterator[dict[int, Tensor]]:
    """Yield a dict that every forward pass refills with the last position's states [b, d] by place,
    on one device.
    """
    stack, seen = decoder_layers(model), dict[int, Tensor]()

    def keep(place: int, hidden: Tensor) -> None:
        seen[place] = hidden[:, -1].to(device, torch.float32, copy=True)

    def entering(place: int):
        def hook(_module, args, kwargs):
            keep(place, args[0] if args else kwargs["hidden_states"])

        return hook

    def leaving(_module, _inputs, output):
        keep(len(stack), layer_output(output))

    with ExitStack() as attached:
        for place in places:
            if place < len(stack):
                handle = stack[place].register_forward_pre_hook(entering(place), with_kwargs=True)
            else:
                handle = stack[-1].register_forward_hook(leaving)
            attached.callback(handle.remove)
        yield seen
