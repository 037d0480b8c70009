"""What a loss sees: a batch of pairs under both signs of c, beside the base model; and what it may
measure against.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

Terms = dict[str, Tensor]


class Observed(NamedTuple):
    """A batch of b pairs under c = +1 and c = -1 (in this order), beside the base model."""

    states: Tensor
    """[2, b, 2, d]: coefficient, pair, (positive, negative); mean over the last tokens at the loss
    layer.
    """
    nll: Tensor
    """[2, b, 2, t], zero where not chosen."""
    base_states: Tensor
    """[b, 2, d]"""
    base_nll: Tensor
    """[b, 2, t]"""
    chosen: Tensor
    """[b, 2, t] bool: the tokens that both texts of a pair share."""
    shift: Tensor | None = None
    """[2, b, 2, t]: total variation between base and steered next-token distributions, zero where
    not chosen.
    """
    base_entropy: Tensor | None = None
    """[b, 2, t] nats, zero where not chosen."""


class Reference(NamedTuple):
    """What a loss may fix itself to before training: the base model on the training pairs."""

    states: Tensor
    """[n, 2, d] at the loss layer, as in `Observed`."""
    writers: Callable[[], Tensor]
    """Left singular vectors [d, r] of what writes to the residual stream at the loss layer, largest
    first.
    """
    subspace: Callable[[list[str], int | None, bool], Tensor]
    """Loss basis [d, k] by names of its parts, rank and centring."""


class Loss(Protocol):
    reads_distribution: bool
    """Whether it needs `shift` and `base_entropy`."""

    def prepare(self, reference: Reference) -> Tensor:
        """Fix what the loss measures against; return the unit direction [d] of the positive
        persona, for orientation.
        """
        ...

    def __call__(self, observed: Observed, progress: float) -> Terms:
        """Return the weighted terms, whose sum is the loss; `progress` is the share of optimiser
        steps, this one counted.
        """
        ...


def symlog(x: Tensor) -> Tensor:
    """Return sign(x) log(1 + |x|), whose slope at 0 is 1 (autograd of the formula as written would
    say 0).
    """
    return x.clamp(min=0).log1p() - torch.relu(-x).log1p()


def unit(x: Tensor) -> Tensor:
    return x / x.norm()


def mean_difference(states: Tensor) -> Tensor:
    """Return the mean [d] of positive minus negative states [n, 2, d]."""
    return (states[:, 0] - states[:, 1]).mean(0)


def over_tokens(values: Tensor, chosen: Tensor) -> Tensor:
    """Return the mean over chosen tokens [...] of values [..., t]."""
    return (values * chosen).sum(-1) / chosen.sum(-1)


def gaps(nll: Tensor, chosen: Tensor) -> Tensor:
    """Return mean log p(positive) - log p(negative) per pair, over the shared tokens."""
    mean = over_tokens(nll, chosen)
    return mean[..., 1] - mean[..., 0]


def ordering(observed: Observed, margin: float | Tensor) -> Tensor:
    """Return the hinge that wants c = +1 and c = -1 on opposite sides of the base, in the cheaper
    of both orders.

    With g_c the gap at c minus the base's: min( mean[relu(m - g_+) + relu(m + g_-)], mean[relu(m +
    g_+) + relu(m - g_-)] ), margin a number or [b].
    """
    up, down = gaps(observed.nll, observed.chosen) - gaps(observed.base_nll, observed.chosen)
    forward = torch.relu(margin - up) + torch.relu(margin + down)
    backward = torch.relu(margin + up) + torch.relu(margin - down)
    return torch.minimum(forward.mean(), backward.mean())
