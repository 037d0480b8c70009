"""The contrastive loss of InnerPiSSA: separation along a direction, coherence, ordering.

For the states of the positive and negative text of a pair at coefficient c, and a unit direction d:

    p_c = (h_pos - h_neg) . d,   x = c p_c / s,   x0 = |p_ref| / s,   s = mean |p_ref|
    Delta = symlog(x) - symlog(x0)
    raw: -Delta   (the other forms stand in `FORMS`)
    coherence = w mean_t relu(log p_ref(t) - log p_c(t) - bound)^2     over shared tokens
    ordering  = w hinge                                                (losses.py)

Source: github.com/wassname/InnerPiSSA (README and code of November 2025). There coherence reads
only the reinforced text of a pair. Here both texts count at both coefficients, which is stricter.
tanh_symmetric is negated here; there the sign was left to the later flip.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from pipeline.steering.training.losses import (
    Observed,
    Reference,
    Terms,
    mean_difference,
    ordering,
    symlog,
    unit,
)
from pipeline.support.section import Section


class ContrastiveParams(Section):
    """The loss of InnerPiSSA."""

    of: Literal["contrastive"] = "contrastive"
    """Which loss it is: the id of its section under `losses`."""
    form: Literal[
        "raw",
        "softplus_strong",
        "logsigmoid_weak",
        "logsigmoid_dpo",
        "tanh_symmetric",
        "softplus_ratio",
        "focal_balanced",
    ]
    """How a pair's separation becomes a loss; logsigmoid_weak limits itself, without coherence."""
    separation: Literal["difference", "common"]
    """Widen the difference within pairs (the paper), or move both texts of a pair together."""
    direction: Literal["mean", "pca", "top_s", "adapter"]
    """The reference: the mean pair difference, or the pairs' first principal components. Else the
    mean within the top left singular vectors of what writes to the loss layer (top_s), or within
    the adapter's own output dimensions."""
    directions: int = Field(ge=1)
    """How many components pca takes, and how many singular vectors top_s; the others ignore it."""
    coherence_bound: float = Field(ge=0)
    """Nats that a token's log-probability may lose for free."""
    coherence_weight: float = Field(ge=0)
    """The weight of what it loses beyond that, squared."""
    ordering_margin: float = Field(ge=0)
    """Nats by which c = +1 and c = -1 should lie on opposite sides of the base."""
    ordering_weight: float = Field(ge=0)
    """The weight of what is missing of that margin."""

    def build(self, outputs: list[Tensor]) -> "ContrastiveLoss":
        """Return the loss; `outputs` are the bases [o, r] that the adapter writes in."""
        return ContrastiveLoss(self, outputs)


@dataclass(frozen=True)
class Form:
    """A loss of Delta, or of the ratio x / x0."""

    loss: Callable[[Tensor], Tensor]
    of_ratio: bool = False
    cap: float = math.inf
    """Bounds the coherence term smoothly; zero leaves it out."""


FORMS = {
    "raw": Form(lambda delta: -delta),
    "softplus_strong": Form(lambda delta: -F.softplus(0.1 * delta)),
    "logsigmoid_weak": Form(lambda delta: -F.logsigmoid(0.1 * (delta - 1)), cap=0.0),
    "logsigmoid_dpo": Form(lambda delta: -F.logsigmoid(0.1 * delta)),
    "tanh_symmetric": Form(lambda ratio: -torch.tanh(0.1 * ratio), of_ratio=True, cap=1.0),
    "softplus_ratio": Form(lambda ratio: -F.softplus(ratio - 1), of_ratio=True, cap=3.0),
    "focal_balanced": Form(lambda delta: -(1 - delta.sigmoid()).square() * F.logsigmoid(delta)),
}


def reference_directions(
    reference: Reference, params: ContrastiveParams, outputs: list[Float[Tensor, "_ _"]]
) -> Float[Tensor, "d k"]:
    """Return unit directions of the positive persona: `directions` for `pca`, else one.

    `adapter` keeps the part of the mean within the span of `outputs`, the adapter's own
    bases. `top_s` keeps the part within the largest left singular vectors of what writes
    to the loss layer.
    """
    mean = mean_difference(reference.states)
    match params.direction:
        case "mean":
            return unit(mean)[:, None]
        case "pca":  # uncentred: centring would remove the mean itself
            difference = reference.states[:, 0] - reference.states[:, 1]
            components = torch.linalg.svd(difference, full_matrices=False).Vh[: params.directions].T
            sign = (mean @ components).sign()
            return components * torch.where(sign == 0, 1.0, sign)
        case "top_s":
            basis = reference.writers()[:, : params.directions]
        case "adapter":
            written = torch.cat([U.to(mean) for U in outputs if len(U) == len(mean)], dim=1)
            basis = torch.linalg.qr(written).Q
    return unit(basis @ (basis.T @ mean))[:, None]


def project(states: Float[Tensor, "*n d"], directions: Float[Tensor, "d k"]) -> Float[Tensor, "*n"]:
    """Return s . d, or for several directions the length of all, signed by their mean."""
    coordinates = states @ directions
    if coordinates.shape[-1] == 1:
        return coordinates[..., 0]
    return coordinates.mean(-1).sign() * coordinates.norm(dim=-1)


def separation(
    observed: Observed, directions: Float[Tensor, "d k"], kind: str, form: str
) -> Float[Tensor, ""]:
    """Return the separation term; `common` scores the movement that both texts of a pair share."""
    c = observed.states.new_tensor([1.0, -1.0])[:, None]
    base = project(observed.base_states[:, 0] - observed.base_states[:, 1], directions).abs()
    scale = base.mean()
    if kind == "common":
        x = c * project((observed.states - observed.base_states).mean(2), directions) / scale
        delta, ratio = symlog(x), x
    else:
        x = c * project(observed.states[:, :, 0] - observed.states[:, :, 1], directions) / scale
        delta, ratio = symlog(x) - symlog(base / scale), x / (base / scale).clamp_min(1e-3)
    return FORMS[form].loss(ratio if FORMS[form].of_ratio else delta).mean()


def coherence(observed: Observed, bound: float, cap: float = math.inf) -> Float[Tensor, ""]:
    """Return the mean squared loss of log-probability beyond the bound, over the shared tokens."""
    lost = torch.relu(observed.nll - observed.base_nll - bound).square()
    mean = lost.sum() / (2 * observed.chosen.sum())
    if math.isinf(cap):
        return mean
    return mean * 0.0 if cap == 0 else cap * torch.tanh(mean / cap)


@dataclass
class ContrastiveLoss:
    params: ContrastiveParams
    outputs: list[Tensor] = field(default_factory=list)
    reads_distribution: bool = False
    directions: Tensor | None = None

    def prepare(self, reference: Reference) -> Tensor:
        self.directions = reference_directions(reference, self.params, self.outputs)
        return unit(mean_difference(reference.states))

    def __call__(self, observed: Observed, progress: float) -> Terms:
        assert self.directions is not None, "prepare comes first"
        params = self.params
        lost = coherence(observed, params.coherence_bound, FORMS[params.form].cap)
        return {
            "separation": separation(observed, self.directions, params.separation, params.form),
            "coherence": params.coherence_weight * lost,
            "ordering": params.ordering_weight * ordering(observed, params.ordering_margin),
        }
