"""The one training loop of all learned methods: pairs in, best checkpoint, oriented, with its history."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import polars as pl
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.errors import InputError
from pipeline.lm.layers import decoder_layers, depth_to_layer
from pipeline.progress import track
from pipeline.sections import TrainingParams
from pipeline.steering.base import Pairs, Steering
from pipeline.steering.contrast import BasePass, PairTensors, base_pass, pair_tensors, run
from pipeline.steering.observed import Loss, Observed, Reference, Terms
from pipeline.steering.orient import orientation
from pipeline.steering.subspace import gather, loss_subspace
from pipeline.steering.svd import writers_basis


class Trainable(Steering, Protocol):
    def parameters(self) -> list[nn.Parameter]: ...

    def flip(self) -> None:
        """Exchange the meanings of +c and -c, exactly."""
        ...


@dataclass
class Split:
    """One split of the pairs with what the base model makes of it, computed once."""

    data: PairTensors
    base: BasePass


Step = Callable[[Split, list[int], float], Terms]


def optimise(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, steering: Trainable, last_layer: int, loss: Loss,
    train: Pairs, calibration: Pairs, params: TrainingParams, lr: float, generator: torch.Generator,
) -> tuple[pl.DataFrame, dict[str, float]]:  # fmt: skip
    """Train in place, restore the best checkpoint on the calibration pairs, and orient: c = +1 is the positive persona.

    Returns the history (one row per step and split) and a summary. AdamW, one-cycle schedule, clipped gradients. Both signs
    of c go through one forward pass; the base model's part of the loss is computed once.
    """
    index = depth_to_layer(model, params.loss_depth)
    if index <= last_layer:
        raise InputError(
            f"training.loss_depth {params.loss_depth} is layer {index}, not after the last adapted layer {last_layer}: "
            "raise it, or adapt earlier layers"
        )
    index = min(index, len(decoder_layers(model)) - 1)
    layer = decoder_layers(model)[index]

    def split(pairs: Pairs) -> Split:
        data = pair_tensors(tokenizer, pairs, params.last_tokens, model.device)
        return Split(data, base_pass(model, layer, data, params.last_tokens, 2 * params.batch_size, loss.reads_distribution))

    splits = {"train": split(train), "calibration": split(calibration)}
    direction = loss.prepare(reference(model, tokenizer, train, index, splits["train"].base.states))

    def terms(part: Split, rows: list[int], progress: float) -> Terms:
        batch = part.data.batch(rows)
        base = part.base.batch(rows, batch.ids.shape[-1])
        coefficients = torch.tensor([1.0, -1.0]).repeat_interleave(2 * len(rows))
        with steering.steer(model, coefficients):
            found = run(model, layer, batch, params.last_tokens, repeats=2, base=base.final)
        observed = Observed(found.states, found.nll, base.states, base.nll, batch.chosen, found.shift, base.entropy)
        return loss(observed, progress)

    history, best_loss = descend(steering.parameters(), terms, splits, params, lr, generator)
    summary = {"calibration_loss": best_loss}
    summary |= orientation(model, tokenizer, steering, calibration.neutral, layer, direction, params.last_tokens)
    return history, summary


def reference(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, train: Pairs, index: int, states: Tensor) -> Reference:
    """Return what a loss may measure against; what costs more than the states is made only when asked for."""
    return Reference(
        states,
        lambda: writers_basis(model, index),
        lambda parts, rank, centred: loss_subspace(parts, gather(model, tokenizer, train, index, parts), rank, centred),
    )


@torch.enable_grad()
def descend(
    parameters: list[nn.Parameter], terms: Step, splits: dict[str, Split], params: TrainingParams, lr: float,
    generator: torch.Generator,
) -> tuple[pl.DataFrame, float]:  # fmt: skip
    """Minimise the sum of `terms` over the training split; keep the parameters of the best calibration loss."""
    count, size = len(splits["train"].data.lengths), params.batch_size * params.accumulate
    steps = params.epochs * -(-count // size)
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=params.weight_decay)
    pct_start = max(params.warmup_share, 1 / steps)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps + 1, pct_start=pct_start)
    records: list[dict[str, Any]] = []
    best_loss, best = validate(terms, splits["calibration"], params.batch_size, records, 0), copies(parameters)
    order = (rows for _ in range(params.epochs) for rows in shuffled(count, size, generator))
    for step, rows in enumerate(track(order, "training", steps), start=1):
        optimizer.zero_grad()
        found = accumulate(terms, splits["train"], rows, params.batch_size, (step - 1) / steps)
        torch.nn.utils.clip_grad_norm_(parameters, params.clip_norm)
        rate = schedule.get_last_lr()[0]
        optimizer.step()
        schedule.step()
        records.append({"step": step, "split": "train", "lr": rate} | found)
        if step % (steps // params.epochs):
            continue
        reached = validate(terms, splits["calibration"], params.batch_size, records, step)
        if not reached < float("inf"):
            raise InputError(f"the loss is {reached} at step {step}: lower the method's lr ({lr})")
        if reached < best_loss:
            best_loss, best = reached, copies(parameters)
    with torch.no_grad():
        for parameter, kept in zip(parameters, best, strict=True):
            parameter.copy_(kept)
    return history_frame(records), best_loss


def accumulate(terms: Step, split: Split, rows: list[int], size: int, progress: float) -> Terms:
    """Add the gradients of micro-batches of `size` pairs, averaged over `rows`; return the averaged terms, detached."""
    total: Terms = {}
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        found = {key: value * (len(part) / len(rows)) for key, value in terms(split, part, progress).items()}
        torch.stack(list(found.values())).sum().backward()
        total = {key: value.detach() + total.get(key, 0.0) for key, value in found.items()}
    return total


def shuffled(count: int, size: int, generator: torch.Generator) -> Iterator[list[int]]:
    order = torch.randperm(count, generator=generator).tolist()
    for start in range(0, count, size):
        yield order[start : start + size]


@torch.no_grad()
def validate(terms: Step, split: Split, size: int, records: list[dict[str, Any]], step: int) -> float:
    """Record and return the loss of a whole split at full weights, so that checkpoints of a ramp can be compared."""
    count = len(split.data.lengths)
    parts = [list(range(start, min(start + size, count))) for start in range(0, count, size)]
    weighted = [{k: v * len(rows) / count for k, v in terms(split, rows, 1.0).items()} for rows in parts]
    means = {key: torch.stack([part[key] for part in weighted]).sum() for key in weighted[0]}
    records.append({"step": step, "split": "calibration"} | means)
    return torch.stack(list(means.values())).sum().item()


def copies(parameters: list[nn.Parameter]) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in parameters]


def history_frame(records: list[dict[str, Any]]) -> pl.DataFrame:
    """Bring the recorded terms to the host, once, and add their sum."""
    rows = [{k: v.item() if isinstance(v, Tensor) else v for k, v in record.items()} for record in records]
    names = [name for name in rows[0] if name not in ("step", "split", "lr")]
    return pl.DataFrame(rows, infer_schema_length=None).with_columns(pl.sum_horizontal(names).alias("loss"))
