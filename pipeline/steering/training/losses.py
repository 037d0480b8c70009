"""What a loss sees: a batch of pairs under both signs of c, beside the base model.

Here is what the two losses share; each is a section of `losses` and a file beside this one.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Terms = dict[str, Tensor]
# Of b pairs: states [2, b, 2, d], nll [2, b, 2, t] and, for a loss that reads it, shift [2, b, t].
Outputs = list[Tensor]


class Observed(NamedTuple):
    """A batch of b pairs under c = +1 and c = -1 (in this order), beside the base model."""

    states: Float[Tensor, "2 b 2 d"]
    """By coefficient, pair, text (positive, negative): last tokens' mean at the loss layer."""
    nll: Float[Tensor, "2 b 2 t"]
    """Zero where not chosen, as all by token."""
    base_states: Float[Tensor, "b 2 d"]
    base_nll: Float[Tensor, "b 2 t"]
    chosen: Bool[Tensor, "b 2 t"]
    """The tokens that both texts of a pair share."""
    shift: Float[Tensor, "2 b t"] | None = None
    """Total variation between base and steered next-token distributions: of the positive text at
    c = +1, of the negative one at c = -1."""
    base_entropy: Float[Tensor, "b 2 t"] | None = None
    """In nats."""


class Reference(NamedTuple):
    """What a loss may fix itself to before training: the base model on the training pairs."""

    states: Float[Tensor, "n 2 d"]
    """At the loss layer, as in `Observed`."""
    writers: Callable[[], Tensor]
    """Left singular vectors [d, r] of what writes to the residual stream at the loss layer."""
    subspace: Callable[[list[str], int | None, bool], Tensor]
    """Loss basis [d, k] by names of its parts, rank and centring."""


class Loss(Protocol):
    reads_distribution: bool
    """Whether it needs `shift` and `base_entropy`."""

    def prepare(self, reference: Reference) -> Tensor:
        """Fix what the loss measures against; return the positive persona's unit direction [d]."""
        ...

    def __call__(self, observed: Observed, progress: float) -> Terms:
        """Return the weighted terms, whose sum is the loss.

        `progress` is the share of optimiser steps, this one counted.
        """
        ...


def symlog(x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Return sign(x) log(1 + |x|) with slope 1 at 0, where autograd of the formula would say 0."""
    return x.clamp(min=0).log1p() - torch.relu(-x).log1p()


def unit(x: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
    return x / x.norm()


def mean_difference(states: Float[Tensor, "n 2 d"]) -> Float[Tensor, " d"]:
    """Return the mean of positive minus negative states."""
    return (states[:, 0] - states[:, 1]).mean(0)


def over_tokens(values: Float[Tensor, "*n t"], chosen: Bool[Tensor, "*m t"]) -> Float[Tensor, "*n"]:
    """Return the mean over chosen tokens."""
    return (values * chosen).sum(-1) / chosen.sum(-1)


def gaps(nll: Float[Tensor, "*n b 2 t"], chosen: Bool[Tensor, "b 2 t"]) -> Float[Tensor, "*n b"]:
    """Return mean log p(positive) - log p(negative) per pair, over the shared tokens."""
    mean = over_tokens(nll, chosen)
    return mean[..., 1] - mean[..., 0]


def ordering(observed: Observed, margin: float | Float[Tensor, " b"]) -> Float[Tensor, ""]:
    """Return the hinge that wants c = +1 and c = -1 on opposite sides of the base.

    The cheaper of both orders counts. With g_c the gap at c minus the base's:

        min( mean[relu(m - g_+) + relu(m + g_-)], mean[relu(m + g_+) + relu(m - g_-)] )
    """
    up, down = gaps(observed.nll, observed.chosen) - gaps(observed.base_nll, observed.chosen)
    forward = torch.relu(margin - up) + torch.relu(margin + down)
    backward = torch.relu(margin + up) + torch.relu(margin - down)
    return torch.minimum(forward.mean(), backward.mean())
