"""What training minimises, and its gradient, in parts where memory or processes ask for it.

A loss is no mean over pairs: it scales by a batch's spread, and takes the cheaper order of a whole
batch. So the outputs of all pairs are put together first. Then each part gets its gradient with the
other parts' outputs as constants, which is exact:

    L(o_1, ..., o_k),  o_i = f(pairs_i, theta)      dL/dtheta = sum_i dL/do_i do_i/dtheta

One part on one process costs one forward and one backward pass, several a second forward pass.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.lm import processes
from pipeline.lm.batches import RowLimit
from pipeline.lm.trunk import trunk_depth
from pipeline.steering.base import Trainable
from pipeline.steering.pair_batches import BasePass, PairTokens, run_pairs
from pipeline.steering.training.losses import Loss, Observed, Terms

SETTING = (
    "lower training.last_tokens or rank, quantise the model, or take a device with more memory"
)
# Of b pairs: states [2, b, 2, d], nll [2, b, 2, t] and, for a loss that reads it, shift [2, b, t].
Outputs = list[Tensor]


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


class Minimised(Protocol):
    """What `PartwiseObjective` needs: outputs with pairs along axis 1, and a loss of them all."""

    steering: Trainable
    kept: list[Tensor]
    """What it carries from step to step."""

    def outputs(self, split: Any, rows: list[int], width: int) -> Outputs: ...

    def blank(self, split: Any, rows: list[int], width: int) -> Outputs: ...

    def terms(self, split: Any, rows: list[int], outputs: Outputs, progress: float) -> Terms: ...

    def after_step(self) -> None: ...


class PartwiseObjective:
    """An objective whose micro-batches may be split, over processes and into what memory holds."""

    def __init__(self, objective: Minimised, size: int):
        self.objective = objective
        self.parameters: list[nn.Parameter] = objective.steering.parameters()
        self.limit = RowLimit(size, "training", SETTING)

    def terms(self, split: Any, rows: list[int], progress: float, weight: float = 1.0) -> Terms:
        """Return the loss terms of a micro-batch times `weight`, detached, on every process alike.

        Where gradients are on, those of this process's own pairs are added to the parameters'.
        """
        learns, width = torch.is_grad_enabled(), split.width(rows)
        own = processes.every_nth(list(range(len(rows))))
        whole = self.objective.blank(split, rows, width)
        with_graph: list[Outputs] = []

        def outputs_of(part: list[int]) -> Outputs:
            return self.objective.outputs(split, [rows[i] for i in part], width)

        def weighted_terms(outputs: Outputs) -> Terms:
            terms = self.objective.terms(split, rows, outputs, progress)
            return {key: value * weight for key, value in terms.items()}

        def forward(part: list[int]) -> Outputs:
            in_one = learns and part == own
            with torch.set_grad_enabled(in_one):
                outputs = outputs_of(part)
            if in_one:
                with_graph.append(outputs)
            return [output.detach() for output in outputs]

        def backward(part: list[int]) -> Terms:
            with torch.enable_grad():
                outputs = with_graph.pop() if with_graph else outputs_of(part)
                terms = weighted_terms(placed(whole, part, outputs))
                self.add_gradients(terms)
            return {key: value.detach() for key, value in terms.items()}

        for part, outputs in self.limit.each(own, forward):
            whole = placed(whole, part, outputs)
        processes.add_up(whole)
        by_part = [terms for _, terms in self.limit.each(own, backward)] if learns else []
        with torch.no_grad():
            return by_part[-1] if by_part else weighted_terms(whole)

    def add_gradients(self, terms: Terms) -> None:
        """Add the gradients of the terms' sum; all of them or, where memory runs out, none."""
        total = torch.stack(list(terms.values())).sum()
        gradients = torch.autograd.grad(total, self.parameters, allow_unused=True)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            if gradient is None:
                continue
            # A copy: gradients of autograd may share memory, and clipping works in place.
            before = parameter.grad
            parameter.grad = gradient.clone() if before is None else before + gradient


def placed(whole: Outputs, part: list[int], outputs: Outputs) -> Outputs:
    """Return the outputs of a micro-batch with those of some of its pairs put in."""
    index = torch.tensor(part, device=whole[0].device)
    return [
        before.index_copy(1, index, after) for before, after in zip(whole, outputs, strict=True)
    ]
