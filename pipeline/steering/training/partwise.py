"""The gradient of a loss, in parts where memory or processes ask for it.

A loss is no mean over pairs: it scales by a batch's spread, and takes the cheaper order of a whole
batch. So the outputs of all pairs are put together first. Then each part gets its gradient with the
other parts' outputs as constants, which is exact:

    L(o_1, ..., o_k),  o_i = f(pairs_i, theta)      dL/dtheta = sum_i dL/do_i do_i/dtheta

One part on one process costs one forward and one backward pass, several a second forward pass.
"""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.lm import processes
from pipeline.lm.batches import RowLimit
from pipeline.steering.base import Trainable
from pipeline.steering.training.losses import Outputs, Terms

SETTING = (
    "lower training.last_tokens or rank, quantise the model, or take a device with more memory"
)


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
