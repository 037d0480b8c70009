"""One unit for all methods: c = 1 is the dose that costs a fixed budget, and so is c = -1.

    cost(c) = mean over the tokens of rollouts of KL(base || steered), nats per token

The rollouts are short greedy replies of the base model to open prompts, so the cost is measured
where a user would feel it. Each sign has a raw coefficient of its own. It is found by a secant on
log c and log cost inside of a bracket, as steering-lite does for the 95th percentile.
"""

import math
from collections.abc import Callable, Generator
from contextlib import nullcontext
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from pipeline.lm.base import Base
from pipeline.lm.forward import before, kl_from, last_hidden, log_probs, tails
from pipeline.lm.prompts import pad_left
from pipeline.lm.trunk import on_trunk, run_trunk, trunk_depth
from pipeline.steering.base import Attachable, CostUnit, Steering
from pipeline.steering.rollouts import Rollouts
from pipeline.support.errors import InputError
from pipeline.support.section import Section

UP, DOWN = math.log(4), math.log(16)  # the largest steps of the search
SLOPES = (0.5, 4.0)  # of log cost on log c: a KL divergence begins with 2
TRIES = 40  # passes at most; a search takes some six
CLOSED = 1e-4  # a bracket of log c that holds a jump of the cost


class DoseParams(Section):
    budget: float = Field(gt=0)
    """What c = 1 and c = -1 cost with every method: KL(base || steered), nats per token."""
    tokens: int = Field(ge=1)
    """The length of the base model's replies, its rollouts, on which the cost is measured."""
    max_coefficient: float = Field(gt=0)
    """The largest raw coefficient that the search for the unit tries."""
    tolerance: float = Field(default=0.01, gt=0, lt=1)
    """How far from the budget a cost may be, as a share of it."""


class Cost(NamedTuple):
    """KL divergence from the base model over all tokens of the rollouts, in nats."""

    mean: float
    p95: float


Costs = Callable[[list[float]], list[Cost]]


class Dose(NamedTuple):
    """What c = 1 and c = -1 stand for and cost."""

    unit: CostUnit
    positive: Cost
    negative: Cost
    reached: bool | None
    """Whether both cost the budget; None where the coefficient has no size."""

    def record(self) -> dict[str, float | bool | None]:
        """Return the columns of equal_cost.csv."""
        return {
            "raw_positive": self.unit.positive, "raw_negative": self.unit.negative,
            "cost_positive": self.positive.mean, "cost_negative": self.negative.mean,
            "p95_positive": self.positive.p95, "p95_negative": self.negative.p95,
            "budget_reached": self.reached,
        }  # fmt: skip


@torch.no_grad()
def cost_function(base: Base, steering: Attachable, rollouts: Rollouts) -> Costs:
    """Return a function of raw coefficients to their costs, each once per forward pass.

    The base model is run once, and so are the layers below those that the method touches.
    """
    model, pad = base.model, base.pad_id
    counts = list(map(len, rollouts.replies))
    ids, mask = pad_left(rollouts.texts(base, steering, 0.0), pad, base.device)
    hidden = last_hidden(model, ids, mask)
    plain = log_probs(model, before(hidden, tails(counts, ids.shape[1], base.device)))
    depth = trunk_depth(model, steering.touched())
    held = run_trunk(model, depth, lambda: last_hidden(model, ids, mask)) if depth else None

    @torch.no_grad()
    def costs(coefficients: list[float]) -> list[Cost]:
        rows = [text for c in coefficients for text in rollouts.texts(base, steering, c)]
        together, seen = pad_left(rows, pad, base.device)
        index = torch.arange(len(ids)).repeat(len(coefficients))
        by_row = torch.tensor(coefficients).repeat_interleave(len(ids))
        with (
            steering.steer(model, by_row),
            nullcontext() if held is None else on_trunk(model, depth, held, index),
        ):
            states = last_hidden(model, together, seen)
        places = tails(len(coefficients) * counts, together.shape[1], base.device)
        return [cost_of(own) for own in kl_from(model, plain, before(states, places))]

    return costs


def cost_of(tokens: Tensor) -> Cost:
    """Return mean and 95th percentile of the divergences [n] of tokens; infinite where any is."""
    if not tokens.isfinite().all():
        return Cost(math.inf, math.inf)  # the model has come apart
    return Cost(tokens.mean().item(), tokens.quantile(0.95).item())


def calibrate(base: Base, steering: Steering, rollouts: Rollouts, params: DoseParams) -> Dose:
    """Set the method's unit, and return it with its costs; without sizes ±1 are as they are."""
    costs = cost_function(base, steering, rollouts)
    if not steering.graded:
        positive, negative = costs([1.0, -1.0])
        return Dose(steering.unit, positive, negative, None)
    (up, positive), (down, negative) = search(costs, params)
    steering.unit = CostUnit(up, down)
    steering.budget_reached = all(near(cost.mean, params) for cost in (positive, negative))
    return Dose(steering.unit, positive, negative, steering.budget_reached)


def near(cost: float, params: DoseParams) -> bool:
    return abs(cost - params.budget) <= params.tolerance * params.budget


def search(costs: Costs, params: DoseParams) -> list[tuple[float, Cost]]:
    """Return the size and the cost of c > 0 and of c < 0; both signs share the forward passes."""
    crossed: dict[float, tuple[float, Cost]] = {}
    seen: dict[float, Cost] = {}
    running = {sign: crossing(params) for sign in (1.0, -1.0)}
    tried = {sign: sign * next(one) for sign, one in running.items()}
    while tried:
        seen |= dict(zip(tried.values(), costs(list(tried.values())), strict=True))
        for sign, c in list(tried.items()):
            try:
                tried[sign] = sign * running[sign].send(seen[c].mean)
            except StopIteration as end:
                del tried[sign]
                crossed[sign] = end.value, seen[sign * end.value]
    return [crossed[1.0], crossed[-1.0]]


def crossing(params: DoseParams) -> Generator[float, float, float]:
    """Yield sizes to try, receive their costs, return the size that costs the budget.

    A budget that is not reached returns `max_coefficient`; one that the cost leaps over, the
    largest size below it. The search starts from 1.
    """
    x, most = min(0.0, math.log(params.max_coefficient)), math.log(params.max_coefficient)
    low, high, last = -math.inf, math.inf, None
    for count in range(TRIES):
        cost = yield math.exp(x)
        if near(cost, params) or (cost < params.budget and x == most):
            return math.exp(x)
        y = math.log(max(cost, 1e-12) / params.budget)
        low, high = (x, high) if y < 0 else (low, x)
        if high - low < CLOSED:
            break
        aim = x - min(max(y / slope(last, (x, y)), -UP), DOWN)
        last = x, y
        inside = low < aim < high and not (count % 3 == 2 and low > -math.inf and high < math.inf)
        x = min(aim if inside else (low + high) / 2, most)
    if low == -math.inf:
        raise InputError(
            f"even a coefficient of {math.exp(high):.2g} costs more than the budget: fit the "
            "method again with a lower learning rate"
        )
    return math.exp(low)


def slope(last: tuple[float, float] | None, now: tuple[float, float]) -> float:
    """Return the slope of log cost on log c through two points, within its limits."""
    if last is None or not math.isfinite(last[1] - now[1]) or last[0] == now[0]:
        return 2.0
    steep = (now[1] - last[1]) / (now[0] - last[0])
    return min(max(steep, SLOPES[0]), SLOPES[1])
