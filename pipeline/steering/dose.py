"""The dose at which a method costs a fixed budget, found on calibration pairs only.

    cost(c) = mean over both signs and all shared tokens of the calibration texts without a persona
              kl: KL(base || steered),   delta_nll: -log p_c + log p_ref of the text's own tokens

It is the smallest c > 0 whose cost reaches the budget: doubled from a small start, then bisected.
So methods compare at equal cost.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from pipeline.lm.base import Base
from pipeline.lm.forward import ROWS, last_hidden, tails, token_kl, token_nll
from pipeline.steering.base import Attachable, Pairs
from pipeline.steering.pair_batches import pair_tensors
from pipeline.support.section import Section

Cost = Callable[[float], tuple[float, float]]


class DoseParams(Section):
    measure: Literal["kl", "delta_nll"]
    """The cost on calibration texts without a persona: KL(base || steered), or the rise of NLL."""
    budget: float = Field(gt=0)
    """What every method may cost: nats per token, the mean of both signs."""
    max_coefficient: float = Field(gt=0)
    """Where the search for a method's dose stops."""
    start: float = Field(default=1 / 64, gt=0)
    """The first coefficient that the search tries."""
    tolerance: float = Field(default=0.01, gt=0, lt=1)
    """How far from the budget a cost may be, as a share of it."""


@torch.no_grad()
def cost_function(base: Base, steering: Attachable, calibration: Pairs, measure: str) -> Cost:
    """Return c -> cost (nats per token) at +c and at -c; the base model is run once."""
    model = base.model
    # Beside the positive text, so that the shared tokens are those after the persona's place.
    pairs = Pairs(calibration.neutral, calibration.positive, calibration.neutral)
    data = pair_tensors(base, pairs, 1)
    parts = []
    for start in range(0, len(data.lengths), ROWS):
        batch = data.batch(list(range(start, min(start + ROWS, len(data.lengths)))))
        ids, mask = batch.ids[:, 0], batch.mask[:, 0]
        parts.append((ids, mask, batch.shared, last_hidden(model, ids, mask)))
    count = sum(data.shared)

    def by_token(c: float, ids: Tensor, mask: Tensor, shared: list[int], plain: Tensor) -> Tensor:
        """Return the cost of each shared token, those at +c first."""
        twice = ids.repeat(2, 1)
        both = tails(2 * shared, ids.shape[-1], ids.device)
        with steering.steer(model, torch.tensor([c, -c]).repeat_interleave(len(ids))):
            hidden = last_hidden(model, twice, mask.repeat(2, 1))
        if measure == "kl":
            return token_kl(model, plain.repeat(2, 1, 1), hidden, both)
        once = tails(shared, ids.shape[-1], ids.device)
        own = token_nll(model, plain, ids, once)
        return token_nll(model, hidden, twice, both) - own.repeat(2)

    @torch.no_grad()
    def cost(c: float) -> tuple[float, float]:
        total = torch.zeros(2, device=model.device)
        for part in parts:
            total += by_token(c, *part).view(2, -1).sum(1)
        up, down = (total / count).tolist()
        return up, down

    return cost


def calibrate(cost: Cost, params: DoseParams) -> dict[str, float | bool]:
    """Return the calibrated coefficient, its cost at both signs and whether it reached the budget.

    A budget that is never reached gives `max_coefficient` and says so.
    """

    def measured(c: float) -> tuple[float, tuple[float, float]]:
        both = cost(c)
        mean = sum(both) / 2
        # NaN: the model has come apart, so the dose is too high.
        return math.inf if math.isnan(mean) else mean, both

    low, high = 0.0, params.start
    reached, both = measured(high)
    while reached < params.budget and high < params.max_coefficient:
        low, high = high, min(2 * high, params.max_coefficient)
        reached, both = measured(high)
    enough = reached >= params.budget
    allowed = params.tolerance * params.budget
    while enough and abs(reached - params.budget) > allowed and high - low > 1e-4 * high:
        middle = (low + high) / 2
        at_middle, both_at_middle = measured(middle)
        if at_middle < params.budget:
            low = middle
        else:
            high, reached, both = middle, at_middle, both_at_middle
    return {"coefficient": high, "cost_up": both[0], "cost_down": both[1], "reached": enough}
