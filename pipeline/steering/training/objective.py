"""What training minimises: a loss of pairs under both signs of c, beside the base model."""

from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.lm.trunk import trunk_depth
from pipeline.steering.base import Trainable
from pipeline.steering.pair_batches import BasePass, PairTokens, run_pairs
from pipeline.steering.training.losses import Loss, Observed, Outputs, Terms


@dataclass
class Split:
    """One split of the pairs with what the base model makes of it, computed once."""

    data: PairTokens
    base: BasePass

    def __len__(self) -> int:
        return len(self.data.shared)

    def width(self, rows: list[int]) -> int:
        """Return how many columns these pairs need."""
        return max(self.data.shared[row] for row in rows)


@dataclass
class Objective:
    """The loss of an adapter under both signs of c, beside the base model, on some pairs."""

    model: nn.Module
    layer: nn.Module
    """Whose output the loss reads."""
    steering: Trainable
    loss: Loss
    last_tokens: int
    kept: list[Tensor] = field(default_factory=list)
    """Nothing is carried from step to step."""

    @cached_property
    def depth(self) -> int:
        """How many layers lie below the adapter, which both signs of c share."""
        return trunk_depth(self.model, self.steering.touched())

    def outputs(self, split: Split, rows: list[int], width: int) -> Outputs:
        """Run pairs under both signs in one forward pass; tokens are the last `width` columns."""
        batch = split.data.batch(rows)
        final = split.base.batch(rows, batch.chosen.shape[-1]).final
        coefficients = torch.tensor([1.0, -1.0]).repeat_interleave(len(batch.laid.rows.ids))
        with self.steering.steer(self.model, coefficients):
            outcome = run_pairs(
                self.model, self.layer, batch, self.last_tokens, 2, final, self.depth
            )
        by_token = [values for values in (outcome.nll, outcome.shift) if values is not None]
        padded = (F.pad(values, (width - values.shape[-1], 0)) for values in by_token)
        return [outcome.states, *padded]

    def blank(self, split: Split, rows: list[int], width: int) -> Outputs:
        """Return zeros in the form of `outputs`."""
        base = split.base.batch(rows, width)
        parts = [base.states, base.nll, *[base.nll[:, 0]] * self.loss.reads_distribution]
        return [torch.zeros_like(part).repeat(2, *[1] * part.ndim) for part in parts]

    def terms(self, split: Split, rows: list[int], outputs: Outputs, progress: float) -> Terms:
        """Return the loss terms of pairs whose outputs are known."""
        states, nll, *shift = outputs
        chosen = split.data.chosen[rows][..., -nll.shape[-1] :]
        base = split.base.batch(rows, nll.shape[-1])
        observed = Observed(
            states, nll, base.states, base.nll, chosen, shift[0] if shift else None, base.entropy
        )
        return self.loss(observed, progress)

    def after_step(self) -> None:
        """Do nothing: the loss is the same at every step."""
