"""What training minimises: the adapter under both signs of c, beside the base model, on some pairs
of one split.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.lm.trunk import trunk_depth
from pipeline.steering.base import Steering
from pipeline.steering.training.contrast import BasePass, PairTensors, run
from pipeline.steering.training.observed import Loss, Observed, Terms


class Trainable(Steering, Protocol):
    def parameters(self) -> list[nn.Parameter]: ...

    def flip(self) -> None:
        """Exchange the meanings of +c and -c, exactly."""
        ...


@dataclass
class Split:
    """One split of the pairs with what the base model makes of it, computed once."""

    data: PairTensors
    base: BasePass

    def width(self, rows: list[int]) -> int:
        """Return how many columns these pairs need."""
        return max(self.data.lengths[row] for row in rows)


Outputs = list[
    Tensor
    # of b pairs: states [2, b, 2, d], nll [2, b, 2, t] and, where the loss reads it, shift [2, b,
    # 2, t]
]


@dataclass
class Objective:
    model: PreTrainedModel
    layer: nn.Module
    """Whose output the loss reads."""
    steering: Trainable
    loss: Loss
    last_tokens: int

    @cached_property
    def depth(self) -> int:
        """How many layers lie below the adapter, which both signs of c share."""
        return trunk_depth(self.model, self.steering.touched())

    def outputs(self, split: Split, rows: list[int], width: int) -> Outputs:
        """Run pairs under both signs in one forward pass; tokens are the last `width` columns."""
        batch = split.data.batch(rows)
        base = split.base.batch(rows, batch.ids.shape[-1])
        coefficients = torch.tensor([1.0, -1.0]).repeat_interleave(2 * len(rows))
        with self.steering.steer(self.model, coefficients):
            found = run(self.model, self.layer, batch, self.last_tokens, 2, base.final, self.depth)
        by_token = [values for values in (found.nll, found.shift) if values is not None]
        return [
            found.states,
            *(F.pad(values, (width - values.shape[-1], 0)) for values in by_token),
        ]

    def blank(self, split: Split, rows: list[int], width: int) -> Outputs:
        """Return zeros in the form of `outputs`."""
        base = split.base.batch(rows, width)
        by_token = [base.nll] * (2 if self.loss.reads_distribution else 1)
        return [
            torch.zeros_like(part).repeat(2, *[1] * part.ndim) for part in (base.states, *by_token)
        ]

    def terms(self, split: Split, rows: list[int], outputs: Outputs, progress: float) -> Terms:
        """Return the loss terms of pairs whose outputs are known."""
        states, nll, *rest = outputs
        batch = split.data.batch(rows)
        base = split.base.batch(rows, nll.shape[-1])
        shift = rest[0] if rest else None
        return self.loss(
            Observed(states, nll, base.states, base.nll, batch.chosen, shift, base.entropy),
            progress,
        )
