"""The one training of all learned methods: pairs in, best checkpoint, oriented, with its
history.
"""

import polars as pl
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.lm.layers import decoder_layers, depth_to_layer
from pipeline.steering.base import Pairs
from pipeline.steering.sign import orientation
from pipeline.steering.svd import writers_basis
from pipeline.steering.training.contrast import base_pass, pair_tensors
from pipeline.steering.training.loop import descend
from pipeline.steering.training.objective import Objective, Split, Trainable
from pipeline.steering.training.observed import Loss, Reference
from pipeline.steering.training.pieces import Pieces
from pipeline.steering.training.subspace import gather, loss_subspace
from pipeline.study.sections import TrainingParams
from pipeline.support.errors import InputError
from pipeline.support.scratch import Scratch


def optimise(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, steering: Trainable, last_layer: int, loss: Loss,
    train: Pairs, calibration: Pairs, params: TrainingParams, lr: float, generator: torch.Generator,
    scratch: Scratch | None = None,
) -> tuple[pl.DataFrame, dict[str, float]]:  # fmt: skip
    """Train in place, restore the best checkpoint on the calibration pairs, and orient: c = +1 is
    the positive persona.

    Returns the history (one row per step and split) and a summary. Both signs of c go through one
    forward pass; the base model's part of the loss is computed once. Several processes share each
    step's pairs; all end with the same adapter.
    """
    index = depth_to_layer(model, params.loss_depth)
    if index <= last_layer:
        raise InputError(
            f"training.loss_depth {params.loss_depth} is layer {index}, not after the last adapted "
            f"layer {last_layer}: "
            "raise it, or adapt earlier layers"
        )
    index = min(index, len(decoder_layers(model)) - 1)
    layer = decoder_layers(model)[index]

    def split(pairs: Pairs) -> Split:
        data = pair_tensors(tokenizer, pairs, params.last_tokens, model.device)
        return Split(
            data,
            base_pass(
                model,
                layer,
                data,
                params.last_tokens,
                2 * params.batch_size,
                loss.reads_distribution,
            ),
        )

    splits = {"train": split(train), "calibration": split(calibration)}
    direction = loss.prepare(reference(model, tokenizer, train, index, splits["train"].base.states))
    pieces = Pieces(Objective(model, layer, steering, loss, params.last_tokens), params.batch_size)
    history, best_loss = descend(pieces, splits, params, lr, generator, scratch)
    summary = {"calibration_loss": best_loss}
    summary |= orientation(
        model, tokenizer, steering, calibration.neutral, layer, direction, params.last_tokens
    )
    return history, summary


def reference(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train: Pairs,
    index: int,
    states: Tensor,
) -> Reference:
    """Return what a loss may measure against; what costs more than the states is made only when
    asked for.
    """
    return Reference(
        states,
        lambda: writers_basis(model, index),
        lambda parts, rank, centred: loss_subspace(
            parts, gather(model, tokenizer, train, index, parts), rank, centred
        ),
    )
