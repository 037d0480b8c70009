"""The anti-parallel loss of AntiPaSTO: c = +1 and c = -1 move the pair difference oppositely.

With B [d, k] the frozen loss basis (subspace.py), h the states at the loss layer, sg left out:

    D_x = (h_pos - h_neg) at x in {ref, +, -},   delta = (D_c - D_ref) B
    v = delta / sigma,   v_ref = D_ref B / sigma
    focus_c = min(1, |delta_c| / |D_c - D_ref|) ^ (1 - softness)
    P = prod_c cos(v_c, v_ref) focus_c,     projection = w P + relu(w P)^2
    barrier = [log1p(w v)]^2 + v,  v_t = relu(TV_t - threshold sqrt(H_ref,t + 0.02)),  mean over
              tokens, at c = +1 of the positive text and at c = -1 of the negative one
    ordering = w hinge with margin (m sqrt(mean_t H_ref) + 0.04)          (losses.py)

sigma_j is the spread of D_ref over all training pairs (the source takes each batch's), with the
source's floors. The product says nothing about how far the states move; size comes from the hinge.
coherence, ordering and focus come in over the ramp.

Source: arXiv 2601.07473. `cosine` is its code of 2026-02-08, `symlog` its
README: symlog(v_+ . v_-).
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from pipeline.steering.training import losses
from pipeline.steering.training.losses import Observed, Reference, Terms, over_tokens
from pipeline.support.section import Section

# All from the source's code of 2026-02-08.
ENTROPY_FLOOR = 0.02  # nats: a certain token may change a little too
MARGIN_FLOOR = 0.04  # nats of the ordering margin where the base is certain
SPREAD_FLOOR = 0.05  # of sigma, absolute
SPREAD_SHARE = 0.1  # of sigma, as a share of its median
SMALL = 1e-6

Part = Literal["task", "suppressed", "change", "write", "not_read", "not_logits", "logits_read"]


class AntiParallelParams(Section):
    """The loss of AntiPaSTO."""

    of: Literal["antiparallel"] = "antiparallel"
    """Which loss it is: the id of its section under `losses`."""
    projection: Literal["cosine", "symlog"]
    """The product of cosines with focus (the code), or symlog of the movements' product."""
    projection_weight: float = Field(gt=0)
    """The weight w of the product."""
    focus_softness: float = Field(ge=0, le=1)
    """The exponent of the focus is 1 minus this; it falls from 1 during the ramp."""
    coherence_threshold: float = Field(ge=0)
    """A token may change by this times the root of its entropy, in total variation, for free."""
    coherence_weight: float = Field(ge=0)
    """Inside the logarithm of the barrier; 0 leaves the barrier out."""
    ordering_margin: float = Field(ge=0)
    """The margin of the hinge, times the root of the mean entropy."""
    ordering_weight: float = Field(ge=0)
    """The weight of the hinge; 0 leaves it out."""
    ramp_share: float = Field(ge=0, le=1)
    """The share of all optimiser steps over which coherence, ordering and focus come in."""
    subspace: list[Part] = Field(min_length=1)
    """What the loss basis is the intersection of, from left to right."""
    subspace_rank: int | None = Field(ge=1)
    """Its number of dimensions; null keeps 60 % of the energy."""
    centred: bool
    """Subtract the mean pair difference from the task differences, as published."""

    def build(self, outputs: list[Tensor]) -> "AntiParallelLoss":
        """Return the loss, which has no use for the adapter's bases."""
        return AntiParallelLoss(self)


def spread(coordinates: Float[Tensor, "n k"]) -> Float[Tensor, " k"]:
    """Return sigma of reference coordinates, with floors that hold quiet dimensions down."""
    sigma = (coordinates.var(0, unbiased=False) + SMALL).sqrt()
    return sigma.maximum((SPREAD_SHARE * sigma.median() + SMALL).clamp_min(SPREAD_FLOOR))


def movement(observed: Observed) -> tuple[Float[Tensor, "2 b d"], Float[Tensor, "b d"]]:
    """Return D_c - D_ref and D_ref."""
    reference = observed.base_states[:, 0] - observed.base_states[:, 1]
    return observed.states[:, :, 0] - observed.states[:, :, 1] - reference, reference


def cosines(
    observed: Observed, basis: Float[Tensor, "d k"], sigma: Float[Tensor, " k"], softness: float
) -> Float[Tensor, "2 b"]:
    """Return cos(v_c, v_ref) focus_c."""
    whole, reference = movement(observed)
    inside = whole @ basis
    cos = F.cosine_similarity(inside / sigma, (reference @ basis / sigma).expand_as(inside), dim=-1)
    focus = inside.norm(dim=-1) / whole.norm(dim=-1).clamp_min(1e-3)
    return cos * focus.clamp(SMALL, 1) ** (1 - softness)


def product(
    observed: Observed, basis: Float[Tensor, "d k"], sigma: Float[Tensor, " k"]
) -> Float[Tensor, " b"]:
    """Return v_+ . v_-."""
    whole, _ = movement(observed)
    up, down = whole @ basis / sigma
    return (up * down).sum(-1)


def barrier(observed: Observed, threshold: float, weight: float) -> Float[Tensor, ""]:
    """Return the total-variation barrier, the sum of both coefficients' means over pairs."""
    assert observed.shift is not None and observed.base_entropy is not None
    entropy = observed.base_entropy.transpose(0, 1)
    over = torch.relu(observed.shift - threshold * (entropy + ENTROPY_FLOOR).sqrt())
    penalty = torch.log1p(weight * over).square() + over
    return over_tokens(penalty, observed.chosen.transpose(0, 1)).mean(1).sum()


@dataclass
class AntiParallelLoss:
    params: AntiParallelParams
    reads_distribution: bool = True
    basis: Tensor | None = None
    sigma: Tensor | None = None

    def prepare(self, reference: Reference) -> Tensor:
        params = self.params
        self.basis = reference.subspace(list(params.subspace), params.subspace_rank, params.centred)
        self.sigma = spread((reference.states[:, 0] - reference.states[:, 1]) @ self.basis)
        return losses.unit(losses.mean_difference(reference.states))

    def __call__(self, observed: Observed, progress: float) -> Terms:
        params = self.params
        ramp = min(1.0, progress / params.ramp_share) if params.ramp_share else 1.0
        terms = {"projection": self.projection(observed, 1 - ramp * (1 - params.focus_softness))}
        if params.coherence_weight:
            weight = ramp * params.coherence_weight
            terms["coherence"] = barrier(observed, params.coherence_threshold, weight)
        if params.ordering_weight:
            assert observed.base_entropy is not None
            entropy = over_tokens(observed.base_entropy, observed.chosen).mean(1)
            margin = params.ordering_margin * entropy.sqrt() + MARGIN_FLOOR
            terms["ordering"] = ramp * params.ordering_weight * losses.ordering(observed, margin)
        return terms

    def projection(self, observed: Observed, softness: float) -> Tensor:
        assert self.basis is not None and self.sigma is not None, "prepare comes first"
        weight = self.params.projection_weight
        if self.params.projection == "symlog":
            return weight * losses.symlog(product(observed, self.basis, self.sigma)).mean()
        P = weight * cosines(observed, self.basis, self.sigma, softness).prod(0)
        return (P + torch.relu(P).square()).mean()
