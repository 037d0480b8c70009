"""Tables of the report as declarations: header -> what a row's cell says."""

from collections.abc import Callable, Iterable
from typing import Any

import polars as pl

from pipeline.metrics.scores import LOG_ODDS
from pipeline.report.figures.words import name_of
from pipeline.support import formats
from pipeline.support.formats import NONE, number

Row = dict[str, Any]
Cell = Callable[[Row], str]
Columns = dict[str, Cell]
MISSED = " (budget not reached)"
UNDECIDED = " (sign undecided)"


def build(rows: pl.DataFrame | Iterable[Row], columns: Columns) -> pl.DataFrame:
    """Return a table of strings: a row per row, a column per header."""
    records = rows.to_dicts() if isinstance(rows, pl.DataFrame) else rows
    return pl.DataFrame([{head: cell(row) for head, cell in columns.items()} for row in records])


def in_log_odds(row: Row) -> Row:
    """Return a row whose effects are those in log-odds, under their plain names."""
    ours = {name: value for name, value in row.items() if name.endswith(LOG_ODDS)}
    return row | {name.removesuffix(LOG_ODDS): value for name, value in ours.items()}


def nats(cell: Cell) -> Cell:
    """Return a cell that writes in log-odds what another one writes in probability."""
    return lambda row: cell(in_log_odds(row))


def twice(columns: Columns, log_odds_first: bool) -> Columns:
    """Return columns of effects twice: in probability, and in log-odds (nats)."""
    again = {f"{head} (log-odds)": nats(cell) for head, cell in columns.items()}
    return again | columns if log_odds_first else columns | again


def pair(write: Cell, log_odds_first: bool) -> Cell:
    """Return a cell that writes an effect in one measure, and in brackets in the other."""
    first, second = (nats(write), write) if log_odds_first else (write, nats(write))
    return lambda row: f"{first(row)} ({second(row)})"


def show(source: str, write: Callable[[Any], str] = number) -> Cell:
    """Return a cell that writes one column; three digits unless `write` says otherwise."""
    return lambda row: NONE if row[source] is None else write(row[source])


def digits(count: int, sign: str = "") -> Callable[[float], str]:
    return lambda value: number(value, count, sign)


def interval(low: str = "ci_low", high: str = "ci_high") -> Cell:
    return lambda row: formats.interval(row[low], row[high])


def method(row: Row) -> str:
    return name_of(row["method"])


def marked_method(row: Row) -> str:
    """Return a row's method, marked where too few items are answered."""
    return method(row) + ("" if row["coherent"] else " †")


def missed(row: Row) -> str:
    """Return the mark of a row of equal_cost whose ±1 cost less than the budget, else nothing."""
    return MISSED if row["calibrated"] and not row["budget_reached"] else ""


def raw(row: Row) -> str:
    """Return the raw coefficients that c = 1 and c = -1 stand for in a row of equal_cost."""
    both = row["raw_positive"], row["raw_negative"]
    return "{:.2f} / {:.2f}".format(*both) if row["calibrated"] else "no unit"


def cost(row: Row) -> str:
    """Return what c = 1 and c = -1 cost in a row of equal_cost, and whether that is the budget."""
    return f"{number(row['cost_positive'])} / {number(row['cost_negative'])}{missed(row)}"
