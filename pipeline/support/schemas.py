"""The columns of every table that stages exchange: long form, one row per observation."""

from pathlib import Path
from typing import Any

import polars as pl

from pipeline.support.errors import InputError

Schema = dict[str, Any]


def texts(*names: str) -> Schema:
    return dict.fromkeys(names, pl.String)


def numbers(*names: str) -> Schema:
    return dict.fromkeys(names, pl.Float64)


PAIRS = {"pair_id": pl.Int64} | texts("split", "suffix", "positive", "negative", "neutral")
ITEMS = texts("item_id", "dilemma_id", "action_type", "prompt") | {"values": pl.List(pl.String)}
WHOSE = texts("model", "behaviour", "method") | {"seed": pl.Int64}
CELL = WHOSE | texts("evalset", "dose") | numbers("coefficient")
SCORES = CELL | texts("form", "item_id", "dilemma_id") | numbers("log_odds", "choice_mass", "nll")
REASONING = CELL | texts("item_id", "text") | {"n_tokens": pl.Int64} | texts("closed_by")
WRITTEN = {"tokens": pl.List(pl.Int64), "ended": pl.Boolean}
COHERENCE = CELL | {"prompt_id": pl.Int64} | texts("prompt", "text") | WRITTEN | numbers("base_nll")
ANSWERS, LIKELIHOOD = "answers", "likelihood"  # the `form` of scores
COSTS = numbers("cost_positive", "cost_negative", "p95_positive", "p95_negative")
DOSES = texts("method") | {"seed": pl.Int64} | numbers("raw_positive", "raw_negative") | COSTS
DOSES |= {"budget_reached": pl.Boolean}  # null where the coefficient has no size
RAW = "raw"  # the dose is a coefficient of params.yaml
MEAN = "mean"  # the `seed` of effects that average over seeds
LABEL = "label_"  # items hold further Int8 columns label_<framework>/<value>: -1, 0 or +1
NEXT = "correct its source, or run again the stage that makes it"


def labels(items: pl.DataFrame) -> list[str]:
    """Return the names framework/value that a table of items labels."""
    return [column.removeprefix(LABEL) for column in items.columns if column.startswith(LABEL)]


def read_table(path: Path, stage: str, **options: Any) -> pl.DataFrame:
    """Read a parquet or CSV table of an earlier stage; InputError where it is missing or broken."""
    read = pl.read_csv if path.suffix == ".csv" else pl.read_parquet
    try:
        return read(path, **options)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: run `dvc repro {stage}`") from None
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).partition("\n")[0]
        said = f"{path} cannot be read as a table ({reason}): run `dvc repro {stage}`"
        raise InputError(said) from None


def check(frame: pl.DataFrame, schema: Schema, what: str) -> pl.DataFrame:
    """Return the frame, or say which column is missing, mistyped, null or not finite."""
    for column, kind in schema.items():
        if column not in frame.columns:
            needed = ", ".join(schema)
            raise InputError(f"{what} has no column {column!r}: it needs {needed}; {NEXT}")
        values = frame[column]
        if values.dtype != kind:
            said = f"{what}: column {column!r} is {values.dtype}, must be {kind}: {NEXT}"
            raise InputError(said)
        if values.null_count() or (kind == pl.Float64 and not values.is_finite().all()):
            raise InputError(f"{what}: column {column!r} holds null or not finite values: {NEXT}")
    return frame


def check_items(items: pl.DataFrame, what: str) -> pl.DataFrame:
    """Check columns, unique ids, labels, and that every dilemma has both of its actions."""
    check(items, ITEMS, what)
    if items.is_empty():
        raise InputError(f"{what} holds no items: {NEXT}")
    twice = items.filter(pl.col("item_id").is_duplicated())["item_id"]
    if len(twice):
        raise InputError(f"{what}: item_id {twice[0]!r} occurs twice: keep one of its rows")
    sides = pl.col("action_type").sort().str.join(",").over("dilemma_id")
    odd = items.filter(sides != "not_to_do,to_do")["dilemma_id"]
    if len(odd):
        raise InputError(
            f"{what}: dilemma {odd[0]!r} must have one to_do and one not_to_do row, so that saying "
            "Yes to both scores 0: add the other row, or take the dilemma out"
        )
    names = labels(items)
    if not names:
        lacking = "no label_<framework/value> column, as no action carries a value"
        raise InputError(f"{what} has {lacking}: {NEXT}")
    for name in names:
        if not items[LABEL + name].is_in([-1, 0, 1]).all():
            raise InputError(f"{what}: column {LABEL + name!r} must hold -1, 0 or 1: {NEXT}")
    return items


def add_labels(items: pl.DataFrame, carried: list[list[str]]) -> pl.DataFrame:
    """Add the label columns, given the framework/value names that each row's own action carries.

    +1: the row's action carries the value; -1: the dilemma's other action does; 0: neither or both.
    """
    names = sorted({name for row in carried for name in row})
    own = [pl.Series(LABEL + name, [int(name in row) for row in carried]) for name in names]
    columns = [pl.col(series.name) for series in own]
    signed = [(one * 2 - one.sum().over("dilemma_id")).cast(pl.Int8) for one in columns]
    return items.with_columns(own).with_columns(signed)
