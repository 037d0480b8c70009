"""The one training of all learned methods: AdamW, one-cycle schedule, clipped gradients.

The best checkpoint on the calibration pairs is kept and oriented. Nothing in a step waits for the
device: figures stay on it until the next validation.
"""

import math
from typing import Any

import polars as pl
import torch

from pipeline.lm import processes
from pipeline.lm.base import Base
from pipeline.lm.layers import decoder_layers
from pipeline.steering.base import PairSplits, Trainable
from pipeline.steering.sign import orientation
from pipeline.steering.training.checkpoint import TrainingState, assign
from pipeline.steering.training.distil import DistilParams
from pipeline.steering.training.losses import Loss, Terms
from pipeline.steering.training.params import TrainingParams
from pipeline.steering.training.partwise import PartwiseObjective
from pipeline.steering.training.records import check_finite, history_frame
from pipeline.steering.training.task import contrasted, distilled, loss_layer
from pipeline.support.progress import track
from pipeline.support.scratch import Scratch


def optimise(
    base: Base, pairs: PairSplits, steering: Trainable, loss: Loss | DistilParams, last_layer: int,
    params: TrainingParams, lr: float, generator: torch.Generator, scratch: Scratch | None = None,
) -> tuple[pl.DataFrame, dict[str, float]]:  # fmt: skip
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


@torch.enable_grad()
def minimise(
    objective: PartwiseObjective, splits: dict[str, Any], params: TrainingParams, lr: float,
    generator: torch.Generator, scratch: Scratch | None = None,
) -> tuple[pl.DataFrame, dict[str, float]]:  # fmt: skip
    """Minimise the sum of the loss terms; keep the parameters of the best calibration loss.

    With a scratch, an interrupted run goes on from its last checkpoint. There is one at each
    validation, and every `seconds` in between.
    """
    plan, by_epoch = planned(len(splits["train"]), params, generator)
    state = begin(objective, params, lr, len(plan))
    file = scratch.file("training") if scratch else None

    def check_calibration() -> None:
        loss = validate(objective, splits["calibration"], params.batch_size, state)
        check_finite(state, lr, file)
        state.judge(loss)

    if not state.restore(file):
        check_calibration()
    for step in track(range(state.step + 1, len(plan) + 1), "training", len(plan) - state.step):
        # The step at hand counts: with nothing of a ramp, the anti-parallel loss has no gradient,
        # and Adam makes rounding a step.
        descend(objective, splits["train"], plan[step - 1], step / len(plan), params, state)
        if step % by_epoch == 0 or step == len(plan):
            check_calibration()
            state.save(file)
        elif file and file.due():
            check_finite(state, lr, file)
            state.save(file)
    assign(state.parameters, state.best)
    best = {"calibration_loss": state.best_loss, "best_step": float(state.best_step)}
    return history_frame(state.records), best


def planned(
    count: int, params: TrainingParams, generator: torch.Generator
) -> tuple[list[list[int]], int]:
    """Return the pairs of every step, shuffled anew each epoch, and the steps of an epoch."""
    size = params.batch_size * params.accumulate
    by_epoch = math.ceil(count / size)
    steps = params.steps or params.epochs * by_epoch
    plan: list[list[int]] = []
    while len(plan) < steps:
        order = torch.randperm(count, generator=generator).tolist()
        plan += [order[start : start + size] for start in range(0, count, size)]
    return plan[:steps], by_epoch


def begin(
    objective: PartwiseObjective, params: TrainingParams, lr: float, steps: int
) -> TrainingState:
    """Return the state before the first step, with the same parameters in every process."""
    parameters, rising = objective.parameters, max(params.warmup_share, 1 / steps)
    processes.same_everywhere(list(parameters))
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=params.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, lr, total_steps=steps + 1, pct_start=rising
    )
    return TrainingState(parameters, optimizer, schedule, objective.objective.kept)


def descend(
    objective: PartwiseObjective, split: Any, rows: list[int], progress: float,
    params: TrainingParams, state: TrainingState,
) -> None:  # fmt: skip
    """Take one step of the optimiser, and record its terms and learning rate."""
    state.optimizer.zero_grad()
    terms = accumulate(objective, split, rows, params.batch_size, progress)
    processes.add_up_gradients(state.parameters)
    torch.nn.utils.clip_grad_norm_(state.parameters, params.clip_norm)
    rate = state.schedule.get_last_lr()[0]
    state.optimizer.step()
    state.schedule.step()
    objective.objective.after_step()
    state.step += 1
    state.records.append({"step": state.step, "split": "train", "lr": rate} | terms)


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
