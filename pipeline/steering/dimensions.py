"""Which r of a module's singular triples an SVD adapter gets.

AntiPaSTO (arXiv 2601.07473, code of 2026-02-08) takes a third each by three scores. They are what
the positive texts use, what the negative ones use and what their mean difference needs. Its code
counts the last position from the left although the padding is there. Here it is the right edge,
every text's last token.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.steering.svd import Factors
from pipeline.support.errors import InputError

States = Float[Tensor, "n 2 d"]  # of the pairs' texts (positive, negative)


def choose(
    kind: str, factors: Factors, rank: int, states: States | None, writes: bool,
    generator: torch.Generator,
) -> Int[Tensor, " rank"]:  # fmt: skip
    """Return the indices of the chosen triples, ascending: `top`, `random` or `data_aware`.

    Only `data_aware` reads the states that enter the module's layer. It needs to know whether
    the module writes to the residual stream (its basis is U) or reads it (V). Only `random`
    draws from `generator`. Raises InputError for a rank above the number of triples, and where d
    is not the basis's size.
    """
    count = len(factors.S)
    if rank > count:
        raise InputError(
            f"rank {rank} is above the {count} cached singular triples: lower rank or raise "
            "svd.max_rank"
        )
    match kind:
        case "top":
            chosen = torch.arange(rank)
        case "random":
            chosen = torch.randperm(count, generator=generator, device=generator.device)[:rank]
        case "data_aware":
            if states is None:
                raise ValueError("data_aware dimensions need states")
            chosen = by_states(factors, rank, states, writes)
        case _:
            raise ValueError(f"unknown choice of dimensions {kind!r}")
    return chosen.sort().values.to(factors.S.device)


def by_states(factors: Factors, rank: int, states: States, writes: bool) -> Int[Tensor, " rank"]:
    """Return the union of three top lists, filled up by the best of the three scores, unordered.

    With a = h B, a third each by S mean|a_pos| and S mean|a_neg|; the rest by S |mean(a_pos -
    a_neg)|. On a tie the larger singular value goes first.
    """
    basis, side = (factors.U, "output") if writes else (factors.V, "input")
    if len(basis) != states.shape[-1]:
        raise InputError(
            f"a target module's {side} has {len(basis)} dimensions but the residual stream "
            f"{states.shape[-1]}: choose modules that write to or read from the stream, or other "
            "dimensions than data_aware"
        )
    positive, negative = (states.to(basis) @ basis).unbind(1)
    needs = [positive.abs().mean(0), negative.abs().mean(0), (positive - negative).mean(0).abs()]
    scores = factors.S * torch.stack(needs)
    third = rank // 3
    sizes = (third, third, rank - 2 * third)
    order = scores.argsort(dim=1, descending=True, stable=True)
    taken = torch.cat([row[:size] for row, size in zip(order, sizes, strict=True)])
    best = scores.amax(0).index_fill(0, taken, torch.inf)
    return best.argsort(descending=True, stable=True)[:rank]
