"""The dose at which a method costs a fixed budget, found on calibration pairs only, so that methods
compare at equal cost.

    cost(c) = mean over both signs and all shared tokens of the calibration texts without a persona
              kl: KL(base || steered),   delta_nll: -log p_c + log p_ref of the text's own tokens

The smallest c > 0 whose cost reaches the budget: doubled from a small start, then bisected.
"""

import math
from collections.abc import Callable

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.lm.forward import ROWS, last_hidden, tails, token_kl, token_nll
from pipeline.steering.base import Pairs, Steering
from pipeline.steering.training.contrast import pair_tensors
from pipeline.study.sections import DoseParams

START = 1 / 64
TOLERANCE = 0.01  # of the budget


@torch.no_grad()
def cost_function(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    steering: Steering,
    calibration: Pairs,
    measure: str,
) -> Callable[[float], tuple[float, float]]:
    """Return c -> cost (nats per token) at +c and at -c; the base model is run once."""
    # Beside the positive text, so that the shared tokens are those after the persona's place.
    pairs = Pairs(calibration.neutral, calibration.positive, calibration.neutral)
    data = pair_tensors(tokenizer, pairs, 1, model.device)
    parts = []
    for start in range(0, len(data.lengths), ROWS):
        batch = data.batch(list(range(start, min(start + ROWS, len(data.lengths)))))
        ids, mask = batch.ids[:, 0], batch.mask[:, 0]
        parts.append((ids, mask, batch.shared, last_hidden(model, ids, mask)))
    count = sum(data.shared)

    @torch.no_grad()
    def cost(c: float) -> tuple[float, float]:
        total = torch.zeros(2, device=model.device)
        for ids, mask, shared, base in parts:
            twice = [tensor.repeat(2, 1) for tensor in (ids, mask)]
            places = [tails(counts, ids.shape[-1], ids.device) for counts in (shared, 2 * shared)]
            with steering.steer(model, torch.tensor([c, -c]).repeat_interleave(len(ids))):
                hidden = last_hidden(model, *twice)
            if measure == "kl":
                flat = token_kl(model, base.repeat(2, 1, 1), hidden, places[1])
            else:
                flat = token_nll(model, hidden, twice[0], places[1]) - token_nll(
                    model, base, ids, places[0]
                ).repeat(2)
            total += flat.view(2, -1).sum(1)
        up, down = (total / count).tolist()
        return up, down

    return cost


def calibrate(
    cost: Callable[[float], tuple[float, float]], params: DoseParams
) -> dict[str, float | bool]:
    """Return the calibrated coefficient, its cost at both signs and whether the budget was reached
    at all.

    A budget that is never reached gives `max_coefficient` and says so.
    """

    def measured(c: float) -> tuple[float, tuple[float, float]]:
        up, down = cost(c)
        mean = (up + down) / 2
        return (math.inf if math.isnan(mean) else mean), (
            up,
            down,
        )  # NaN: the model has come apart, so the dose is too high

    low, high = 0.0, START
    found, both = measured(high)
    while found < params.budget and high < params.max_coefficient:
        low, high = high, min(2 * high, params.max_coefficient)
        found, both = measured(high)
    reached = found >= params.budget
    while (
        reached
        and abs(found - params.budget) > TOLERANCE * params.budget
        and high - low > 1e-4 * high
    ):
        middle = (low + high) / 2
        at, pair = measured(middle)
        if at < params.budget:
            low = middle
        else:
            high, found, both = middle, at, pair
    return {"coefficient": high, "cost_up": both[0], "cost_down": both[1], "reached": reached}
