"""Mean difference (CAA, ActAdd): the mean of positive minus negative states. At c = 1 and one
layer, the persona's own shift.
"""

import torch
from torch import Tensor

from pipeline.steering.direction import Direction


class MeanDiff(Direction):
    @classmethod
    def unit_directions(cls, differences: Tensor, section, seed: int) -> Tensor:
        return torch.nn.functional.normalize(differences.mean(0), dim=-1)
