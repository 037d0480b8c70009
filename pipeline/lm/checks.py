"""Whether a model can be read and steered here: tried on a few tokens before any other work."""

import math

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.lm.forward import last_hidden, read_layers, to_logits
from pipeline.lm.layers import decoder_layers
from pipeline.support.errors import InputError

WORDS = 6  # tokens of the longer row; the other one has half and is padded
APART = 0.05  # relative error of states and logits in 8 bits of mantissa, with room


@torch.no_grad()
def check_model(model: PreTrainedModel) -> None:
    """Refuse a model whose layers, padding or head are not what reading and steering rely on.

    Layers pass states [b, t, d]; a token sees none after it; a left-padded row is computed as if
    alone; `to_logits` of the last hidden states gives the model's own logits. The model is on its
    device, in its own precision.
    """
    name, width = type(model).__name__, model.config.get_text_config().hidden_size
    ids = torch.arange(2 * WORDS, device=model.device).view(2, WORDS)
    ids = ids % model.config.get_text_config().vocab_size
    mask = torch.ones_like(ids)
    mask[1, : WORDS // 2] = 0
    layers = decoder_layers(model)
    try:
        with read_layers(list(layers)) as seen:
            hidden = last_hidden(model, ids, mask)
        alone = last_hidden(model, ids[1:, WORDS // 2 :], mask[1:, WORDS // 2 :])
        begun = last_hidden(model, ids[:1, : WORDS // 2], mask[:1, : WORDS // 2])
        own = model(input_ids=ids[:1], logits_to_keep=0, use_cache=False).logits
        ours = to_logits(model, hidden[:1])
    except InputError:
        raise
    except Exception as error:  # whatever a model's own code raises
        said = " ".join(str(error).split())[:150].rstrip(".") or type(error).__name__
        raise InputError(
            f"{name} does not run as a text decoder with positions and a mask ({said}): take "
            "another model"
        ) from None
    shape = (*ids.shape, width)
    for states in [*seen, hidden]:
        if tuple(states.shape) != shape:
            raise InputError(
                f"{name} passes states of shape {list(states.shape)} between its layers, not "
                f"{list(shape)}, so that nothing can be added to them: take another model"
            )
    if not all(tensor.isfinite().all() for tensor in (hidden[0], own, ours)):
        raise InputError(
            f"{name} in {model.dtype} gives logits that are not finite: take dtype bfloat16 or "
            "float32"
        )
    if apart(hidden[:1, : WORDS // 2], begun) > APART:
        raise InputError(
            f"{name} lets a token see what comes after it, so it predicts no text: set is_decoder "
            "in its config, or take another model"
        )
    if apart(hidden[1:, WORDS // 2 :], alone) > APART:
        raise InputError(
            f"{name} reads padding as text, so that texts of different lengths cannot share a "
            "batch: take another model"
        )
    if own.shape != ours.shape or apart(ours, own) > APART:
        raise InputError(
            f"{name} makes its logits in a way that cannot be repeated from its last hidden "
            "states: take another model"
        )


def apart(found: Tensor, expected: Tensor) -> float:
    """Return the relative error of a tensor; not a number counts as infinite."""
    found, expected = found.float().cpu(), expected.float().cpu()
    error = ((found - expected).norm() / expected.norm().clamp(min=1e-12)).item()
    return error if math.isfinite(error) else math.inf
