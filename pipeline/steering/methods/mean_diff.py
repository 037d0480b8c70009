"""Mean difference: the mean of positive minus negative states, at each of K layers.

    v_l = mean_i (h+_l,i - h-_l,i) / n_l,   n_l = |mean_i (h+_l,i - h-_l,i)|

At c = 1 and one layer it adds the persona's own shift.

Source: ActAdd (Turner et al., arXiv 2308.10248) and CAA (Rimsky et al., arXiv 2312.06681).
"""

from torch import Tensor
from torch.nn.functional import normalize

from pipeline.steering.base import Look
from pipeline.steering.direction import DirectionParams, PairDirection


class MeanDiff(PairDirection):
    label = "mean difference"
    source = "InnerPiSSA, M. J. Clark, https://github.com/wassname/InnerPiSSA"
    look = Look("#E69F00", "v")

    @classmethod
    def unit_directions(cls, differences: Tensor, section: DirectionParams, seed: int) -> Tensor:
        return normalize(differences.mean(0), dim=-1)
