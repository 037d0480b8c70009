"""What one training minimises, and on what: the loss, beside what the base makes of the pairs."""

from typing import Any, NamedTuple

from torch import Tensor

from pipeline.lm.base import Base
from pipeline.lm.layers import decoder_layers, depth_to_layer
from pipeline.steering.base import Pairs, PairSplits, Trainable
from pipeline.steering.pair_batches import base_pass, pair_tokens
from pipeline.steering.svd import writers_basis
from pipeline.steering.training.distil import Distillation, DistilParams
from pipeline.steering.training.lessons import lessons
from pipeline.steering.training.losses import Loss, Reference, mean_difference, unit
from pipeline.steering.training.objective import Objective, Split
from pipeline.steering.training.params import TrainingParams
from pipeline.steering.training.partwise import Minimised
from pipeline.steering.training.subspace import gather, loss_subspace
from pipeline.support.errors import InputError


class Task(NamedTuple):
    """What is minimised, on what, and the positive persona's unit direction [d]."""

    objective: Minimised
    splits: dict[str, Any]
    direction: Tensor


def contrasted(
    base: Base, pairs: PairSplits, steering: Trainable, loss: Loss, index: int,
    params: TrainingParams,
) -> Task:  # fmt: skip
    """Prepare a loss that reads both texts of a pair beside the base model, which runs once."""
    layer, last = decoder_layers(base.model)[index], params.last_tokens

    def split(part: Pairs) -> Split:
        data = pair_tokens(base, part, last)
        size = 2 * params.batch_size
        plain = base_pass(base.model, layer, data, last, size, loss.reads_distribution)
        return Split(data, plain)

    splits = {name: split(part) for name, part in pairs._asdict().items()}
    direction = loss.prepare(reference(base, pairs.train, index, splits["train"].base.states))
    return Task(Objective(base.model, layer, steering, loss, last), splits, direction)


def distilled(
    base: Base, pairs: PairSplits, steering: Trainable, loss: DistilParams, index: int,
    params: TrainingParams,
) -> Task:  # fmt: skip
    """Prepare the loss that reads what the base says under each persona, which runs once."""
    layer = decoder_layers(base.model)[index]
    splits = {
        name: lessons(base, part, layer, params.last_tokens, loss.budget, name != "train")
        for name, part in pairs._asdict().items()
    }
    direction = unit(mean_difference(splits["train"].differences))
    return Task(Distillation(base, steering, loss), splits, direction)


def loss_layer(base: Base, params: TrainingParams, last_adapted: int) -> int:
    """Return the index of the layer that the loss reads; refuse one that no adapter reaches."""
    index = depth_to_layer(base.model, params.loss_depth)
    if index <= last_adapted:
        raise InputError(
            f"training.loss_depth {params.loss_depth} is layer {index}, not after the last adapted "
            f"layer {last_adapted}: raise it, or adapt earlier layers"
        )
    return min(index, len(decoder_layers(base.model)) - 1)


def reference(base: Base, train: Pairs, layer: int, states: Tensor) -> Reference:
    """Return what a loss may measure against; all but the states are made when asked for."""
    return Reference(
        states,
        lambda: writers_basis(base, layer),
        lambda parts, rank, centred: loss_subspace(
            parts, gather(base, train, layer, parts), rank, centred
        ),
    )
