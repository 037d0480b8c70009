"""Whether a model can be read and steered here: tried on a few tokens before any other work."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.lm.forward import last_hidden, read_layers, to_logits
from pipeline.lm.layers import decoder_layers
from pipeline.support.errors import InputError, in_a_line

HALF = 3  # tokens of the shorter row, which is padded; the other one has twice as many
APART = 0.05  # relative error of states and logits in 8 bits of mantissa, with room
FAILS = "does not run as a text decoder with positions and a mask ({}): take another model"
OTHER_STATES = (
    "passes states of shape {} between its layers, not {}, so that nothing can be added to them: "
    "take another model"
)
NOT_FINITE = "in {} gives logits that are not finite: take dtype bfloat16 or float32"
SEES_AHEAD = (
    "lets a token see what comes after it, so it predicts no text: set is_decoder in its config, "
    "or take another model"
)
READS_PADDING = (
    "reads padding as text, so that texts of different lengths cannot share a batch: take another "
    "model"
)
OTHER_LOGITS = (
    "makes its logits in a way that cannot be repeated from its last hidden states: take another "
    "model"
)


def check_model(model: PreTrainedModel) -> None:
    """Refuse a model whose layers, padding or head are not what reading and steering rely on.

    Layers pass states [b, t, d]. A token sees none after it. A left-padded row is computed as if
    alone. `to_logits` of the last hidden states gives the model's own logits. The model is on its
    device, in its own precision.
    """
    if fault := next(faults(model), None):
        raise InputError(f"{type(model).__name__} {fault}")


@torch.no_grad()
def faults(model: PreTrainedModel) -> Iterator[str]:
    config, layers = model.config.get_text_config(), list(decoder_layers(model))
    ids = torch.arange(4 * HALF, device=model.device).view(2, -1) % config.vocab_size
    mask = torch.ones_like(ids)
    mask[1, :HALF] = 0
    try:
        with read_layers(layers) as seen:
            hidden = last_hidden(model, ids, mask)
        alone = last_hidden(model, ids[1:, HALF:], mask[1:, HALF:])
        begun = last_hidden(model, ids[:1, :HALF], mask[:1, :HALF])
        own = model(input_ids=ids[:1], logits_to_keep=0, use_cache=False).logits
        ours = to_logits(model, hidden[:1])
    except InputError:
        raise
    except Exception as error:  # whatever a model's own code raises
        yield FAILS.format(in_a_line(error))
        return
    shapes, wanted = [list(one.shape) for one in [*seen, hidden]], [*ids.shape, config.hidden_size]
    yield from (OTHER_STATES.format(shape, wanted) for shape in shapes if shape != wanted)
    if not all(tensor.isfinite().all() for tensor in (hidden[0], own, ours)):
        yield NOT_FINITE.format(model.dtype)
    if apart(hidden[:1, :HALF], begun) > APART:
        yield SEES_AHEAD
    if apart(hidden[1:, HALF:], alone) > APART:
        yield READS_PADDING
    if own.shape != ours.shape or apart(ours, own) > APART:
        yield OTHER_LOGITS


def apart(states: Tensor, expected: Tensor) -> float:
    """Return the relative error of a tensor; not a number counts as infinite."""
    states, expected = states.float().cpu(), expected.float().cpu()
    error = ((states - expected).norm() / expected.norm().clamp(min=1e-12)).item()
    return error if math.isfinite(error) else math.inf
