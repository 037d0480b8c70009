"""The training loop: AdamW, one-cycle schedule, clipped gradients, best checkpoint on the
calibration pairs.

Nothing in a step waits for the device: figures stay on it until the next validation.
"""

from collections.abc import Iterator
from typing import Any

import polars as pl
import torch
from torch import Tensor

from pipeline.lm import processes
from pipeline.steering.training.checkpoint import Standing, assign
from pipeline.steering.training.objective import Split
from pipeline.steering.training.observed import Terms
from pipeline.steering.training.pieces import Pieces
from pipeline.study.sections import TrainingParams
from pipeline.support.errors import InputError
from pipeline.support.progress import track
from pipeline.support.scratch import Scratch, ScratchFile


@torch.enable_grad()
def descend(
    pieces: Pieces, splits: dict[str, Split], params: TrainingParams, lr: float, generator: torch.Generator,
    scratch: Scratch | None = None,
) -> tuple[pl.DataFrame, float]:  # fmt: skip
    """Minimise the sum of the loss terms over the training split; keep the parameters of the best
    calibration loss.

    With a scratch, an interrupted run goes on from its last checkpoint: at each validation and
    every `seconds` in between.
    """
    count, size = len(splits["train"].data.lengths), params.batch_size * params.accumulate
    plan = [rows for _ in range(params.epochs) for rows in shuffled(count, size, generator)]
    steps, parameters = len(plan), pieces.parameters
    processes.same_everywhere(list(parameters))
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=params.weight_decay)
    pct_start = max(params.warmup_share, 1 / steps)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, lr, total_steps=steps + 1, pct_start=pct_start
    )
    standing, file = (
        Standing(parameters, optimizer, schedule),
        scratch.file("training") if scratch else None,
    )
    if not standing.restore(file):
        standing.judge(
            validate(pieces, splits["calibration"], params.batch_size, standing.records, 0)
        )
        check_finite(standing, lr, file)
    for step in track(range(standing.step + 1, steps + 1), "training", steps - standing.step):
        optimizer.zero_grad()
        # The step at hand counts: with nothing of a ramp, the anti-parallel loss has no gradient,
        # and Adam makes rounding a step.
        found = accumulate(pieces, splits["train"], plan[step - 1], params.batch_size, step / steps)
        processes.add_up_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, params.clip_norm)
        rate = schedule.get_last_lr()[0]
        optimizer.step()
        schedule.step()
        standing.step = step
        standing.records.append({"step": step, "split": "train", "lr": rate} | found)
        if step % (steps // params.epochs) == 0:
            reached = validate(
                pieces, splits["calibration"], params.batch_size, standing.records, step
            )
            check_finite(standing, lr, file)
            standing.judge(reached)
            standing.save(file)
        elif file and file.due():
            check_finite(standing, lr, file)
            standing.save(file)
    assign(parameters, standing.best)
    return history_frame(standing.records), standing.best_loss


def check_finite(standing: Standing, lr: float, file: ScratchFile | None) -> None:
    """Stop at the first step whose loss is no number; this brings the figures to the host."""
    host_figures(standing.records)
    for record in standing.records:
        loss = sum(value for key, value in record.items() if key not in ("step", "split", "lr"))
        if abs(loss) < float("inf"):
            continue
        if not record["step"]:
            raise InputError(
                f"the loss is {loss} before any training: take dtype float32, or another "
                "training.loss_depth"
            )
        kept = (
            f"; the best state, of step {standing.best_step}, stays in {file.path}"
            if file and file.path.exists()
            else ""
        )
        raise InputError(
            f"the loss is {loss} at step {record['step']}: lower the method's lr ({lr}){kept}"
        )


def accumulate(pieces: Pieces, split: Split, rows: list[int], size: int, progress: float) -> Terms:
    """Add the gradients of micro-batches of `size` pairs, averaged over `rows`; return the averaged
    terms, detached.
    """
    total: Terms = {}
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        found = pieces.terms(split, part, progress, len(part) / len(rows))
        total = {key: value + total.get(key, 0.0) for key, value in found.items()}
    return total


def shuffled(count: int, size: int, generator: torch.Generator) -> Iterator[list[int]]:
    order = torch.randperm(count, generator=generator).tolist()
    for start in range(0, count, size):
        yield order[start : start + size]


@torch.no_grad()
def validate(
    pieces: Pieces, split: Split, size: int, records: list[dict[str, Any]], step: int
) -> float:
    """Record and return the loss of a whole split at full weights, so that checkpoints of a ramp
    can be compared.
    """
    count = len(split.data.lengths)
    parts = [list(range(start, min(start + size, count))) for start in range(0, count, size)]
    weighted = [pieces.terms(split, rows, 1.0, len(rows) / count) for rows in parts]
    means = {key: torch.stack([part[key] for part in weighted]).sum() for key in weighted[0]}
    records.append({"step": step, "split": "calibration"} | means)
    return torch.stack(list(means.values())).sum().item()


def host_figures(records: list[dict[str, Any]]) -> None:
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
    host_figures(records)
    names = [name for name in records[0] if name not in ("step", "split", "lr")]
    return pl.DataFrame(records, infer_schema_length=None).with_columns(
        pl.sum_horizontal(names).alias("loss")
    )
