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
from pipeline.steering.contrast import PairTensors, base_pass, pair_tensors, run
from pipeline.steering.losses import Observed
from pipeline.steering.orient import orientation


class Trainable(Steering, Protocol):
    def parameters(self) -> list[nn.Parameter]: ...

    def flip(self) -> None:
        """Exchange the meanings of +c and -c, exactly."""
        ...


class Loss(Protocol):
    def set_direction(self, base_states: Tensor) -> Tensor: ...

    def __call__(self, observed: Observed) -> dict[str, Tensor]: ...


@dataclass
class Split:
    """One split of the pairs with what the base model makes of it, computed once."""

    data: PairTensors
    base_states: Tensor
    base_nll: Tensor


def optimise(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, steering: Trainable, last_layer: int, loss: Loss,
    train: Pairs, calibration: Pairs, params: TrainingParams, generator: torch.Generator,
) -> tuple[pl.DataFrame, dict[str, float]]:  # fmt: skip
    """Train in place, restore the best checkpoint on the calibration pairs, and orient: c = +1 is the positive persona.

    Returns the history (one row per step and split) and a summary. AdamW, one-cycle schedule, clipped gradients.
    """
    layer_index = depth_to_layer(model, params.loss_depth)
    if layer_index <= last_layer:
        raise InputError(
            f"training.loss_depth {params.loss_depth} is layer {layer_index}, not after the last adapted layer {last_layer}: "
            "raise it, or adapt earlier layers"
        )
    layer = decoder_layers(model)[min(layer_index, len(decoder_layers(model)) - 1)]

    def split(pairs: Pairs) -> Split:
        data = pair_tensors(tokenizer, pairs, params.last_tokens, model.device)
        return Split(data, *base_pass(model, layer, data, params.last_tokens, 2 * params.batch_size))

    splits = {"train": split(train), "calibration": split(calibration)}
    direction = loss.set_direction(splits["train"].base_states)

    def terms(part: Split, rows: list[int]) -> dict[str, Tensor]:
        batch = part.data.batch(rows)
        coefficients = torch.tensor([1.0, -1.0]).repeat_interleave(2 * len(rows))
        with steering.steer(model, coefficients):
            states, nll = run(model, layer, batch, params.last_tokens, repeats=2)
        width = nll.shape[-1]
        observed = Observed(states, nll, part.base_states[rows], part.base_nll[rows][..., -width:], batch.chosen)
        return loss(observed)

    history, best_loss = descend(steering.parameters(), terms, splits, params, generator)
    summary = {"calibration_loss": best_loss}
    summary |= orientation(model, tokenizer, steering, calibration.neutral, layer, direction, params.last_tokens)
    return history, summary


@torch.enable_grad()
def descend(
    parameters: list[nn.Parameter], terms: Callable[[Split, list[int]], dict[str, Tensor]], splits: dict[str, Split],
    params: TrainingParams, generator: torch.Generator,
) -> tuple[pl.DataFrame, float]:  # fmt: skip
    """Minimise the sum of `terms` over the training split; keep the parameters of the best calibration loss."""
    count = len(splits["train"].data.lengths)
    steps = params.epochs * -(-count // params.batch_size)
    optimizer = torch.optim.AdamW(parameters, lr=params.lr, weight_decay=params.weight_decay)
    pct_start = max(params.warmup_share, 1 / steps)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, params.lr, total_steps=steps + 1, pct_start=pct_start)
    records: list[dict[str, Any]] = []
    best_loss, best = validate(terms, splits["calibration"], params.batch_size, records, 0), copies(parameters)
    step = 0
    for _epoch in track(range(params.epochs), "training", params.epochs):
        for rows in shuffled(count, params.batch_size, generator):
            found = terms(splits["train"], rows)
            optimizer.zero_grad()
            torch.stack(list(found.values())).sum().backward()
            torch.nn.utils.clip_grad_norm_(parameters, params.clip_norm)
            rate = schedule.get_last_lr()[0]
            optimizer.step()
            schedule.step()
            step += 1
            records.append({"step": step, "split": "train", "lr": rate} | {k: v.detach() for k, v in found.items()})
        reached = validate(terms, splits["calibration"], params.batch_size, records, step)
        if not reached < float("inf"):
            raise InputError(f"the loss is {reached} at step {step}: lower training.lr ({params.lr})")
        if reached < best_loss:
            best_loss, best = reached, copies(parameters)
    with torch.no_grad():
        for parameter, kept in zip(parameters, best, strict=True):
            parameter.copy_(kept)
    return history_frame(records), best_loss


def shuffled(count: int, size: int, generator: torch.Generator) -> Iterator[list[int]]:
    order = torch.randperm(count, generator=generator).tolist()
    for start in range(0, count, size):
        yield order[start : start + size]


@torch.no_grad()
def validate(terms, split: Split, size: int, records: list[dict[str, Any]], step: int) -> float:
    count = len(split.data.lengths)
    parts = [list(range(start, min(start + size, count))) for start in range(0, count, size)]
    weighted = [{k: v * len(rows) / count for k, v in terms(split, rows).items()} for rows in parts]
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
