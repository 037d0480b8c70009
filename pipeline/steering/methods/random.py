"""Random directions: what any push of the mean difference's length does.

    v_l = g / |g|,   g ~ N(0, I)

Source: the null of the InnerPiSSA repository's table.
"""

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.steering.base import Look
from pipeline.steering.direction import DirectionParams, PairDirection


class RandomParams(DirectionParams):
    directions: int = Field(ge=1)
    """How many random directions make the band."""


class RandomDirection(PairDirection):
    section = RandomParams
    label = "random directions"
    source = "InnerPiSSA, M. J. Clark, https://github.com/wassname/InnerPiSSA"
    look = Look("#999999", ".")

    @classmethod
    def draws(cls, section: RandomParams) -> int:
        return section.directions

    @classmethod
    def unit_directions(cls, differences: Tensor, section: RandomParams, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(differences.shape[1:], generator=generator).to(differences.device)
        return normalize(drawn, dim=-1)
