"""The records of a training run: figures by step, which stay on the device until they are read."""

from typing import Any

import polars as pl
import torch
from torch import Tensor

from pipeline.steering.training.checkpoint import TrainingState
from pipeline.support.errors import InputError
from pipeline.support.scratch import ScratchFile

ABOUT = ("step", "split", "lr")  # what a record holds besides the terms of the loss


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
