"""Random directions of the same length as the mean difference: what any push of that size does.
Many seeds make a band.
"""

import torch
from torch import Tensor

from pipeline.steering.direction import Direction


class RandomDirection(Direction):
    @classmethod
    def unit_directions(cls, differences: Tensor, section, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(differences.shape[1:], generator=generator).to(differences.device)
        return torch.nn.functional.normalize(drawn, dim=-1)
