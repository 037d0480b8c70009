"""Decide which sign of c is the positive persona, on calibration pairs only."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.lm.forward import last_hidden, read_layers
from pipeline.lm.prompts import pad_left, tokenize

if TYPE_CHECKING:
    from pipeline.steering.training.objective import Trainable


@torch.no_grad()
def orientation(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, steering: "Trainable", neutral: list[str],
    layer: nn.Module, direction: Tensor, last_tokens: int,
) -> dict[str, float]:  # fmt: skip
    """Flip `steering` if c = +1 moves persona-free texts against the positive persona's direction
    [d].

    The movement is (h(+1) - h(-1)) . d at the loss layer, mean over the last tokens. Reported
    before the flip, with its t over texts: near zero means that the sign is a guess.
    """
    ids, mask = pad_left(tokenize(tokenizer, neutral), tokenizer.pad_token_id, model.device)
    coefficients = torch.tensor([1.0, -1.0]).repeat_interleave(len(neutral))
    with read_layers([layer]) as seen, steering.steer(model, coefficients):
        last_hidden(model, ids.repeat(2, 1), mask.repeat(2, 1))
    up, down = seen[0][:, -last_tokens:].float().mean(1).to(direction).view(2, len(neutral), -1)
    moved = (up - down) @ direction
    mean, spread = moved.mean().item(), moved.std().item()
    if mean < 0:
        steering.flip()
    return {
        "orientation_shift": mean,
        "orientation_t": mean / (spread / math.sqrt(len(neutral))) if spread else 0.0,
        "flipped": float(mean < 0),
    }
