"""PCA of pair differences (RepE, repeng): the first principal component per layer.

Centring, as sklearn does it, removes the mean difference, that is the direction common to all
pairs; so it is an option and not the default. The sign is the majority vote of the training pairs.
"""

import torch
from torch import Tensor

from pipeline.steering.direction import Direction
from pipeline.study.sections import PcaParams


class Pca(Direction):
    @classmethod
    def unit_directions(cls, differences: Tensor, section, seed: int) -> Tensor:
        assert isinstance(section, PcaParams)
        rows = differences - differences.mean(0) if section.centred else differences
        components = torch.linalg.svd(rows.transpose(0, 1), full_matrices=False).Vh[:, 0]
        votes = torch.einsum("nkd,kd->nk", differences, components).sign().sum(0)
        return components * torch.where(votes < 0, -1.0, 1.0)[:, None]
