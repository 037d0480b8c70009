"""The contrastive loss of InnerPiSSA: separation along a reference direction, bounded loss of coherence, ordering.

For the states of the positive and negative text of a pair at coefficient c, and a unit direction d:

    p_c = (h_pos - h_neg) . d,   separation = - mean_c [ symlog(c p_c / s) - symlog(|p_ref| / s) ],   s = mean |p_ref|
    coherence = w mean_t relu(log p_ref(t) - log p_c(t) - bound)^2        over the tokens that both texts share
    g_c = mean_t [log p_c(pos) - log p_c(neg)] - the same for the base
    ordering = w min( mean[relu(m - g_+) + relu(m + g_-)], mean[relu(m + g_+) + relu(m - g_-)] )

Source: github.com/wassname/InnerPiSSA (README and code of November 2025). There coherence reads the reinforced text of a
pair only; here both texts count at both coefficients, which is stricter.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.sections import InnerPissaParams


class Observed(NamedTuple):
    """A batch of b pairs under c = +1 and c = -1 (in this order), beside the base model."""

    states: Tensor
    """[2, b, 2, d]: coefficient, pair, (positive, negative); mean over the last tokens at the loss layer."""
    nll: Tensor
    """[2, b, 2, t], zero where not chosen."""
    base_states: Tensor
    """[b, 2, d]"""
    base_nll: Tensor
    """[b, 2, t]"""
    chosen: Tensor
    """[b, 2, t] bool: the tokens that both texts of a pair share."""


def symlog(x: Tensor) -> Tensor:
    return x.sign() * x.abs().log1p()


def reference_direction(base_states: Tensor, kind: str) -> Tensor:
    """Return the unit direction [d] of positive minus negative states [n, 2, d]: their mean, or first component."""
    difference = base_states[:, 0] - base_states[:, 1]
    mean = difference.mean(0)
    if kind == "pca":
        component = torch.linalg.svd(difference, full_matrices=False).Vh[0]
        mean = component * (component @ mean).sign()
    return mean / mean.norm()


def separation(observed: Observed, direction: Tensor, kind: str) -> Tensor:
    """Return the separation term; `common` scores the movement that both texts of a pair share instead."""
    c = observed.states.new_tensor([1.0, -1.0])[:, None]
    base = (observed.base_states[:, 0] - observed.base_states[:, 1]) @ direction
    unit = base.abs().mean()
    if kind == "common":
        moved = (observed.states - observed.base_states).mean(2) @ direction
        return -symlog(c * moved / unit).mean()
    found = (observed.states[:, :, 0] - observed.states[:, :, 1]) @ direction
    return -(symlog(c * found / unit) - symlog(base.abs() / unit)).mean()


def coherence(observed: Observed, bound: float) -> Tensor:
    lost = torch.relu(observed.nll - observed.base_nll - bound).square()
    return lost.sum() / (2 * observed.chosen.sum())


def gaps(nll: Tensor, chosen: Tensor) -> Tensor:
    """Return mean log p(positive) - log p(negative) per pair, over the shared tokens."""
    mean = (nll * chosen).sum(-1) / chosen.sum(-1)
    return mean[..., 1] - mean[..., 0]


def ordering(observed: Observed, margin: float) -> Tensor:
    up, down = gaps(observed.nll, observed.chosen) - gaps(observed.base_nll, observed.chosen)
    forward = torch.relu(margin - up) + torch.relu(margin + down)
    backward = torch.relu(margin + up) + torch.relu(margin - down)
    return torch.minimum(forward.mean(), backward.mean())


@dataclass
class ContrastiveLoss:
    section: InnerPissaParams
    direction: Tensor | None = None

    def set_direction(self, base_states: Tensor) -> Tensor:
        """Fix the reference direction from the base model's states [n, 2, d] of the training pairs."""
        self.direction = reference_direction(base_states, self.section.direction)
        return self.direction

    def __call__(self, observed: Observed) -> dict[str, Tensor]:
        """Return the weighted terms; their sum is the loss."""
        assert self.direction is not None, "set_direction comes first"
        return {
            "separation": separation(observed, self.direction, self.section.separation),
            "coherence": self.section.coherence_weight * coherence(observed, self.section.coherence_bound),
            "ordering": self.section.ordering_weight * ordering(observed, self.section.ordering_margin),
        }
