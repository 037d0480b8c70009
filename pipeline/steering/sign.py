"""Decide which sign of c is the positive persona, on calibration pairs only."""

import math

import torch
from torch import Tensor, nn

from pipeline.lm.base import Base
from pipeline.lm.forward import last_hidden, read_layers
from pipeline.steering.base import Trainable


@torch.no_grad()
def orientation(
    base: Base,
    steering: Trainable,
    neutral: list[str],
    layer: nn.Module,
    direction: Tensor,
    last_tokens: int,
    known: bool = False,
) -> dict[str, float]:
    """Flip `steering` if c = +1 moves persona-free texts against the positive persona's direction.

    The movement is (h(+1) - h(-1)) . direction [d] at the loss layer, mean over the last tokens.
    It is reported before the flip, with its t over texts: near zero means that the sign is a guess.
    Where the loss says which sign is which, it is `known` and nothing is flipped.
    """
    ids, mask = base.encode(neutral)
    coefficients = torch.tensor([1.0, -1.0]).repeat_interleave(len(neutral))
    with read_layers([layer]) as seen, steering.steer(base.model, coefficients):
        last_hidden(base.model, ids.repeat(2, 1), mask.repeat(2, 1))
    up, down = seen[0][:, -last_tokens:].float().mean(1).to(direction).view(2, len(neutral), -1)
    moved = (up - down) @ direction
    mean, spread = moved.mean().item(), moved.std().item()
    against = mean < 0 and not known
    if against:
        steering.flip()
    return {
        "orientation_shift": mean,
        "orientation_t": mean / (spread / math.sqrt(len(neutral))) if spread else 0.0,
        "flipped": float(against),
    }
