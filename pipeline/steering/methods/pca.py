"""PCA of pair differences: the first principal component per layer.

    v = the first right singular vector of D [n, d], D_i = h+_i - h-_i (less their mean if centred)

Centring, as sklearn does it, removes the mean difference, the direction common to all pairs. So it
is an option and not the default. The sign is the majority vote of the training pairs, until the
probes have been asked (steering/sign.py).

Source: RepE (Zou et al., arXiv 2310.01405) and repeng (github.com/vgel/repeng).
"""

import torch
from torch import Tensor

from pipeline.steering.base import Look
from pipeline.steering.direction import DirectionParams, PairDirection


class PcaParams(DirectionParams):
    centred: bool
    """Subtract the mean pair difference first, as sklearn and the published baseline do."""


class Pca(PairDirection):
    section = PcaParams
    label = "PCA"
    source = "repeng, T. Vogel, https://github.com/vgel/repeng"
    look = Look("#56B4E9", "P")
    free_sign = True

    @classmethod
    def unit_directions(cls, differences: Tensor, section: PcaParams, seed: int) -> Tensor:
        rows = differences - differences.mean(0) if section.centred else differences
        components = torch.linalg.svd(rows.transpose(0, 1), full_matrices=False).Vh[:, 0]
        votes = torch.einsum("nkd,kd->nk", differences, components).sign().sum(0)
        return components * torch.where(votes < 0, -1.0, 1.0)[:, None]
