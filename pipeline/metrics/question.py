"""What is asked of every method's scores."""

from dataclasses import dataclass

import polars as pl

from pipeline.study.sections import StatisticsParams


@dataclass(frozen=True)
class Question:
    base: pl.DataFrame
    """The untouched model's scores: coefficient 0 of every method."""
    items: pl.DataFrame
    target: str
    """The label whose choice the methods are to make likelier."""
    opposite: list[str]
    """Labels that count neither as target nor as side effect."""
    params: StatisticsParams
