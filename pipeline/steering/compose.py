"""Adapters in units, and several adapters on one model at once, each with its own coefficient.

SVD adapters and LoRA on one module add up in any order; a DoRA scales what was attached before.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.steering.base import Attachable, Steering, Update
from pipeline.steering.hooks import Coefficient, Hooks
from pipeline.support.errors import InputError


class Composed(Steering):
    """Fitted methods with a weight each: at c each is attached at c times its weight, in units."""

    label = "composition"

    def __init__(self, parts: Sequence[tuple[Attachable, float]]):
        super().__init__()
        self.parts = list(parts)

    def hooks(self, model, coefficient: Coefficient) -> Hooks:
        return [
            hook
            for steering, weight in self.parts
            for hook in steering.hooks(model, steering.unit.raw(coefficient * weight))
        ]

    def rewrite(self, messages, coefficient: float):
        for steering, weight in self.parts:
            messages = steering.rewrite(messages, coefficient * weight)
        return messages

    def touched(self) -> list[str]:
        return [name for steering, _ in self.parts for name in steering.touched()]

    def additions(self, coefficient: float) -> dict[str, Tensor]:
        total: dict[str, Tensor] = {}
        for steering, c in fitted(self, coefficient):
            for site, vector in steering.additions(c).items():
                total[site] = total[site] + vector if site in total else vector
        return total

    def updates(self, model, coefficient: float) -> dict[str, Update]:
        total: dict[str, Update] = {}
        for steering, c in fitted(self, coefficient):
            for name, update in steering.updates(model, c).items():
                total[name] = joined(total[name], update, name) if name in total else update
        return total


def in_units(steering: Attachable) -> Composed:
    """Return a fitted method whose c = 1 and c = -1 cost the budget."""
    return Composed([(steering, 1.0)])


def fitted(steering: Attachable, coefficient: float) -> list[tuple[Steering, float]]:
    """Return the methods of a composition, or the one method, each with its own raw coefficient."""
    if isinstance(steering, Composed):
        return [
            own
            for part, weight in steering.parts
            for own in fitted(part, float(part.unit.raw(coefficient * weight)))
        ]
    if not isinstance(steering, Steering):
        raise TypeError(f"{steering!r} is no fitted method")
    return [(steering, coefficient)]


def joined(first: Update, second: Update, name: str) -> Update:
    """Return the sum of two changes of one weight; the rank is the sum of theirs."""
    if first.magnitude is not None or second.magnitude is not None:
        raise InputError(
            f"a DoRA shares {name} with another adapter, which is no low-rank change of its "
            "weight: export each by itself"
        )
    return Update(torch.cat([first.A, second.A]), torch.cat([first.B, second.B], dim=1))
