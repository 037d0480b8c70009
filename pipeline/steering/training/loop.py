"""The one training of all learned methods: AdamW, one-cycle schedule, clipped gradients.

The best checkpoint on the calibration pairs is kept and oriented. Nothing in a step waits for the
device: figures stay on it until the next validation.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import polars as pl
import torch
from pydantic import Field
from torch import Tensor

from pipeline.lm import processes
from pipeline.lm.base import Base
from pipeline.lm.layers import decoder_layers, depth_to_layer
from pipeline.steering.base import Pairs, PairSplits, Trainable
from pipeline.steering.pair_batches import base_pass, pair_tokens
from pipeline.steering.sign import orientation
from pipeline.steering.svd import writers_basis
from pipeline.steering.training.checkpoint import TrainingState, assign
from pipeline.steering.training.distil import Distillation, DistilParams
from pipeline.steering.training.lessons import lessons
from pipeline.steering.training.losses import Loss, Reference, Terms, mean_difference, unit
from pipeline.steering.training.objective import Minimised, Objective, PartwiseObjective, Split
from pipeline.steering.training.subspace import gather, loss_subspace
from pipeline.support.errors import InputError
from pipeline.support.progress import track
from pipeline.support.scratch import Scratch, ScratchFile
from pipeline.support.section import Section

ABOUT = ("step", "split", "lr")  # what a record holds besides the terms of the loss


class TrainingParams(Section):
    loss_depth: float = Field(ge=0, le=1)
    """The layer whose residual stream the loss reads, after the last adapted one (of the depth)."""
    last_tokens: int = Field(ge=1)
    """How many last tokens of a pair the representation loss averages over."""
    epochs: int = Field(ge=1)
    """Passes over the training pairs."""
    steps: int | None = Field(default=None, ge=1)
    """Optimiser steps instead of whole passes; null takes `epochs`."""
    batch_size: int = Field(ge=2)
    """Pairs per micro-batch; each is two texts at two coefficients."""
    accumulate: int = Field(ge=1)
    """Micro-batches per optimiser step, whose gradients are averaged."""
    weight_decay: float = Field(ge=0)
    """AdamW's decoupled weight decay, times the learning rate per step."""
    warmup_share: float = Field(ge=0, lt=1)
    """The share of all steps during which the learning rate rises."""
    clip_norm: float = Field(gt=0)
    """Longest gradient, all parameters together; a longer one is shortened to it."""


def optimise(
    base: Base,
    pairs: PairSplits,
    steering: Trainable,
    loss: Loss | DistilParams,
    last_layer: int,
    params: TrainingParams,
    lr: float,
    generator: torch.Generator,
    scratch: Scratch | None = None,
) -> tuple[pl.DataFrame, dict[str, float]]:
    """Train in place, restore the best checkpoint, and orient: c = +1 is the positive persona.

    Returns the history (one row per step and split) and a summary. Both signs of c go through one
    forward pass; the base model's part of the loss is computed once. Several processes share each
    step's pairs; all end with the same adapter.
    """
    index = loss_layer(base, params, last_layer)
    known = isinstance(loss, DistilParams)
    if isinstance(loss, DistilParams):
        task = distilled(base, pairs, steering, loss, index, params)
    else:
        task = contrasted(base, pairs, steering, loss, index, params)
    partwise = PartwiseObjective(task.objective, params.batch_size)
    history, best = minimise(partwise, task.splits, params, lr, generator, scratch)
    layer, neutral = decoder_layers(base.model)[index], pairs.calibration.neutral
    turned = orientation(base, steering, neutral, layer, task.direction, params.last_tokens, known)
    return history, {**best, **turned}


class Task(NamedTuple):
    """What is minimised, on what, and the positive persona's unit direction [d]."""

    objective: Minimised
    splits: dict[str, Any]
    direction: Tensor


def contrasted(
    base: Base,
    pairs: PairSplits,
    steering: Trainable,
    loss: Loss,
    index: int,
    params: TrainingParams,
) -> Task:
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
    base: Base,
    pairs: PairSplits,
    steering: Trainable,
    loss: DistilParams,
    index: int,
    params: TrainingParams,
) -> Task:
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


@torch.enable_grad()
def minimise(
    objective: PartwiseObjective,
    splits: dict[str, Any],
    params: TrainingParams,
    lr: float,
    generator: torch.Generator,
    scratch: Scratch | None = None,
) -> tuple[pl.DataFrame, dict[str, float]]:
    """Minimise the sum of the loss terms; keep the parameters of the best calibration loss.

    With a scratch, an interrupted run goes on from its last checkpoint. There is one at each
    validation, and every `seconds` in between.
    """
    count, size = len(splits["train"]), params.batch_size * params.accumulate
    by_epoch = math.ceil(count / size)
    steps = params.steps or params.epochs * by_epoch
    epochs = (shuffled(count, size, generator) for _ in range(math.ceil(steps / by_epoch)))
    plan, parameters = [rows for epoch in epochs for rows in epoch][:steps], objective.parameters
    processes.same_everywhere(list(parameters))
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=params.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, lr, total_steps=steps + 1, pct_start=max(params.warmup_share, 1 / steps)
    )
    state = TrainingState(parameters, optimizer, schedule, objective.objective.kept)
    file = scratch.file("training") if scratch else None

    def check_calibration() -> None:
        loss = validate(objective, splits["calibration"], params.batch_size, state)
        check_finite(state, lr, file)
        state.judge(loss)

    if not state.restore(file):
        check_calibration()
    for step in track(range(state.step + 1, steps + 1), "training", steps - state.step):
        optimizer.zero_grad()
        # The step at hand counts: with nothing of a ramp, the anti-parallel loss has no gradient,
        # and Adam makes rounding a step.
        rows, progress = plan[step - 1], step / steps
        terms = accumulate(objective, splits["train"], rows, params.batch_size, progress)
        processes.add_up_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, params.clip_norm)
        rate = schedule.get_last_lr()[0]
        optimizer.step()
        schedule.step()
        objective.objective.after_step()
        state.step = step
        state.records.append({"step": step, "split": "train", "lr": rate} | terms)
        if step % by_epoch == 0 or step == steps:
            check_calibration()
            state.save(file)
        elif file and file.due():
            check_finite(state, lr, file)
            state.save(file)
    assign(parameters, state.best)
    best = {"calibration_loss": state.best_loss, "best_step": float(state.best_step)}
    return history_frame(state.records), best


def shuffled(count: int, size: int, generator: torch.Generator) -> Iterator[list[int]]:
    order = torch.randperm(count, generator=generator).tolist()
    for start in range(0, count, size):
        yield order[start : start + size]


def accumulate(
    objective: PartwiseObjective, split: Any, rows: list[int], size: int, progress: float
) -> Terms:
    """Add the averaged gradients of micro-batches of `size` pairs; return the averaged terms."""
    total: Terms = {}
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        terms = objective.terms(split, part, progress, len(part) / len(rows))
        total = {key: value + total.get(key, 0.0) for key, value in terms.items()}
    return total


@torch.no_grad()
def validate(objective: PartwiseObjective, split: Any, size: int, state: TrainingState) -> float:
    """Record and return a split's loss at full weights, so that checkpoints of a ramp compare."""
    count = len(split)
    parts = [list(range(start, min(start + size, count))) for start in range(0, count, size)]
    weighted = [objective.terms(split, rows, 1.0, len(rows) / count) for rows in parts]
    means = {key: torch.stack([part[key] for part in weighted]).sum() for key in weighted[0]}
    state.records.append({"step": state.step, "split": "calibration"} | means)
    return torch.stack(list(means.values())).sum().item()


def check_finite(state: TrainingState, lr: float, file: ScratchFile | None) -> None:
    """Stop at the first step whose loss is no number; this brings the figures to the host."""
    to_host(state.records)
    for record in state.records:
        loss = sum(value for key, value in record.items() if key not in ABOUT)
        if abs(loss) < float("inf"):
            continue
        if not record["step"]:
            raise InputError(
                f"the loss is {loss} before any training: take dtype float32, or another "
                "training.loss_depth"
            )
        kept = ""
        if file and file.path.exists():
            kept = f"; the best state, of step {state.best_step}, stays in {file.path}"
        raise InputError(
            f"the loss is {loss} at step {record['step']}: lower the method's lr ({lr}){kept}"
        )


def to_host(records: list[dict[str, Any]]) -> None:
    """Bring the recorded figures that are still on the device to the host, all in one copy."""
    waiting = [
        (record, key)
        for record in records
        for key, value in record.items()
        if isinstance(value, Tensor)
    ]
    if waiting:
        values = torch.stack([record[key] for record, key in waiting]).tolist()
        for (record, key), value in zip(waiting, values, strict=True):
            record[key] = value


def history_frame(records: list[dict[str, Any]]) -> pl.DataFrame:
    """Return the records as a table, with the sum of their terms."""
    to_host(records)
    terms = [name for name in records[0] if name not in ABOUT]
    frame = pl.DataFrame(records, infer_schema_length=None)
    return frame.with_columns(pl.sum_horizontal(terms).alias("loss"))
