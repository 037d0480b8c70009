"""The loss of AntiPaSTO: at c = +1 and c = -1 the pair difference moves in opposite directions
along the reference axis.

With B [d, k] the frozen loss basis (subspace.py), h the states at the loss layer, sg left out:

    D_x = (h_pos - h_neg) at x in {ref, +, -},   delta = (D_c - D_ref) B,   v = delta / sigma,
        v_ref = D_ref B / sigma
    focus_c = min(1, |delta_c| / |D_c - D_ref|) ^ (1 - softness)
    P = prod_c cos(v_c, v_ref) focus_c,     projection = w P + relu(w P)^2
    barrier = [log1p(w v)]^2 + v,  v_t = relu(TV_t - threshold sqrt(H_ref,t + 0.02)),  mean over
        tokens, at c = +1 of the
              positive text and at c = -1 of the negative one
    ordering = w hinge with margin (m sqrt(mean_t H_ref) + 0.04)          (observed.py)

sigma_j is the spread of D_ref over all training pairs (the source takes each batch's), with the
source's floors. The product says nothing about how far the states move; size comes from the hinge.
coherence, ordering and focus come in over the ramp.

Source: arXiv 2601.07473; its code of 2026-02-08 for `cosine`, its README for `symlog`, symlog(v_+ .
v_-).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.steering.training.observed import (
    Observed,
    Reference,
    Terms,
    mean_difference,
    ordering,
    over_tokens,
    symlog,
    unit,
)
from pipeline.study.sections import AntiParallelParams


def spread(coordinates: Tensor) -> Tensor:
    """Return sigma [k] of reference coordinates [n, k], with floors that keep quiet dimensions from
    dominating.
    """
    sigma = (coordinates.var(0, unbiased=False) + 1e-6).sqrt()
    return sigma.maximum((0.1 * sigma.median() + 1e-6).clamp_min(0.05))


def cosines(observed: Observed, basis: Tensor, sigma: Tensor, softness: float) -> Tensor:
    """Return cos(v_c, v_ref) focus_c [2, b]."""
    reference = observed.base_states[:, 0] - observed.base_states[:, 1]
    whole = observed.states[:, :, 0] - observed.states[:, :, 1] - reference
    inside = whole @ basis
    cos = F.cosine_similarity(inside / sigma, (reference @ basis / sigma).expand_as(inside), dim=-1)
    share = inside.norm(dim=-1) / whole.norm(dim=-1).clamp_min(1e-3)
    return cos * share.clamp(1e-6, 1) ** (1 - softness)


def product(observed: Observed, basis: Tensor, sigma: Tensor) -> Tensor:
    """Return v_+ . v_- [b]."""
    reference = observed.base_states[:, 0] - observed.base_states[:, 1]
    moved = (observed.states[:, :, 0] - observed.states[:, :, 1] - reference) @ basis / sigma
    return (moved[0] * moved[1]).sum(-1)


def barrier(observed: Observed, threshold: float, weight: float | Tensor) -> Tensor:
    """Return the total-variation barrier, the sum of both coefficients' means over pairs."""
    assert observed.shift is not None and observed.base_entropy is not None
    rows = torch.arange(2, device=observed.shift.device)
    shift, entropy = observed.shift[rows, :, rows], observed.base_entropy.transpose(0, 1)
    over = torch.relu(shift - threshold * (entropy + 0.02).sqrt())
    penalty = torch.log1p(weight * over).square() + over
    return over_tokens(penalty, observed.chosen.transpose(0, 1)).mean(1).sum()


@dataclass
class AntiParallelLoss:
    params: AntiParallelParams
    reads_distribution: bool = True
    basis: Tensor | None = None
    sigma: Tensor | None = None

    def prepare(self, reference: Reference) -> Tensor:
        self.basis = reference.subspace(
            list(self.params.subspace), self.params.subspace_rank, self.params.centred
        )
        self.sigma = spread((reference.states[:, 0] - reference.states[:, 1]) @ self.basis)
        return unit(mean_difference(reference.states))

    def __call__(self, observed: Observed, progress: float) -> Terms:
        params = self.params
        ramp = min(1.0, progress / params.ramp_share) if params.ramp_share else 1.0
        terms = {"projection": self.projection(observed, 1 - ramp * (1 - params.focus_softness))}
        if params.coherence_weight:
            terms["coherence"] = barrier(
                observed, params.coherence_threshold, ramp * params.coherence_weight
            )
        if params.ordering_weight:
            assert observed.base_entropy is not None
            entropy = over_tokens(observed.base_entropy, observed.chosen).mean(1)
            terms["ordering"] = (
                ramp
                * params.ordering_weight
                * ordering(observed, params.ordering_margin * entropy.sqrt() + 0.04)
            )
        return terms

    def projection(self, observed: Observed, softness: float) -> Tensor:
        assert self.basis is not None and self.sigma is not None, "prepare comes first"
        weight = self.params.projection_weight
        if self.params.projection == "symlog":
            return weight * symlog(product(observed, self.basis, self.sigma)).mean()
        P = weight * cosines(observed, self.basis, self.sigma, softness).prod(0)
        return (P + torch.relu(P).square()).mean()
