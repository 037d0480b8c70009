"""A micro-batch in pieces, over processes and, when memory runs out, one after the other; the loss
still sees it whole.

A loss is no mean over pairs: it scales by a batch's spread and takes the cheaper order of a whole
batch. So the outputs of all pairs are put together first, and each piece gets its gradient with the
other pieces' outputs as constants:

    L(o_1, ..., o_k),  o_i = f(pairs_i, theta)      dL/dtheta = sum_i dL/do_i do_i/dtheta

which is exact. One piece on one process costs one forward and one backward pass, several on one
process a second forward pass.
"""

import torch
from torch import nn

from pipeline.lm import processes
from pipeline.lm.batches import RowLimit
from pipeline.steering.training.objective import Objective, Outputs, Split
from pipeline.steering.training.observed import Terms

SETTING = (
    "lower training.last_tokens or rank, quantise the model, or take a device with more memory"
)


class Pieces:
    def __init__(self, objective: Objective, size: int):
        self.objective = objective
        self.parameters: list[nn.Parameter] = objective.steering.parameters()
        self.limit = RowLimit(size, "training", SETTING)

    def terms(self, split: Split, rows: list[int], progress: float, weight: float = 1.0) -> Terms:
        """Return the loss terms of a micro-batch times `weight`, detached, the same on every
        process.

        Where gradients are on, those of this process's own pairs are added to the parameters'.
        """
        learns, width = torch.is_grad_enabled(), split.width(rows)
        own = processes.every_nth(list(range(len(rows))))
        whole, kept = self.objective.blank(split, rows, width), list[Outputs]()

        def forward(part: list[int]) -> Outputs:
            with torch.set_grad_enabled(learns and part == own):
                outputs = self.objective.outputs(split, [rows[i] for i in part], width)
            if learns and part == own:
                kept.append(outputs)
            return [output.detach() for output in outputs]

        def scaled(outputs: Outputs) -> Terms:
            return {
                key: value * weight
                for key, value in self.objective.terms(split, rows, outputs, progress).items()
            }

        def backward(part: list[int]) -> Terms:
            with torch.enable_grad():
                outputs = (
                    kept.pop()
                    if kept
                    else self.objective.outputs(split, [rows[i] for i in part], width)
                )
                found = scaled(placed(whole, part, outputs))
                self.add_gradients(found)
            return {key: value.detach() for key, value in found.items()}

        for part, outputs in self.limit.each(own, forward):
            whole = placed(whole, part, outputs)
        processes.add_up(whole)
        found = [terms for _, terms in self.limit.each(own, backward)] if learns else []
        with torch.no_grad():
            return found[-1] if found else scaled(whole)

    def add_gradients(self, terms: Terms) -> None:
        """Add the gradients of the terms' sum; all of them or, where memory runs out, none."""
        found = torch.autograd.grad(
            torch.stack(list(terms.values())).sum(), self.parameters, allow_unused=True
        )
        for parameter, gradient in zip(self.parameters, found, strict=True):
            if gradient is not None:
                # A copy, since gradients that autograd returns may share memory, and clipping works
                # in place.
                parameter.grad = (
                    gradient.clone() if parameter.grad is None else parameter.grad + gradient
                )


def placed(whole: Outputs, part: list[int], outputs: Outputs) -> Outputs:
    """Return the outputs of a micro-batch with those of some of its pairs put in."""
    index = torch.tensor(part, device=whole[0].device)
    return [
        before.index_copy(1, index, after) for before, after in zip(whole, outputs, strict=True)
    ]
