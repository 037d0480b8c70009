"""From scores to signed scores and movements, on which every statistic here stands.

Signed log-odds = label x log_odds, with no further negation. A model that always takes the side
with the value scores above 0; one that says Yes to everything scores 0. The signed probability is
label x (p_yes - 1/2). So a difference of two means is a difference in the probability of the choice
that carries the value.

Every effect stands in both. A column in nats of log-odds has the name of the one in probability and
the suffix `_log_odds`. Where a model mostly says No, probabilities hide what moves.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from pipeline.support.schemas import LABEL
from pipeline.support.sections import StatisticsParams

COLUMNS = ["item_id", "dilemma_id", "coefficient", "log_odds", "choice_mass", "nll"]
LOG_ODDS = "_log_odds"
SUFFIXES = ("", LOG_ODDS)
MOVED = ["y", "yes", "probability", "effect", "effect_log_odds"]  # what `movements` adds


@dataclass(frozen=True)
class Evaluation:
    """What the scores of every method are measured against."""

    base: pl.DataFrame
    """The untouched model's scores: coefficient 0 of every method."""
    items: pl.DataFrame
    target: str
    """The label whose choice the methods are to make likelier."""
    opposite: list[str]
    """Labels that count neither as target nor as side effect."""
    params: StatisticsParams
    controls: pl.DataFrame | None = None
    """The base's and every method's scores of the control items; None without any."""
    ungraded: Sequence[str] = ()
    """Methods whose coefficient has a sign and no size, such as prompting."""

    def with_base(self, scores: pl.DataFrame) -> pl.DataFrame:
        """Return the base's rows, coefficient 0, above a method's."""
        return pl.concat([self.base.select(COLUMNS), scores.select(COLUMNS)])

    def movements(self, scores: pl.DataFrame) -> pl.DataFrame:
        """Return a method's and the base's `movements`, each the mean of the seeds' own."""
        moved = movements(self.with_base(scores), self.items, self.target)
        return means(moved, COLUMNS[:3], [*COLUMNS[3:], *MOVED]).drop("count")

    def answered(self, scores: pl.DataFrame) -> pl.Series:
        """Say of each row whether its answer words hold enough probability."""
        return scores["choice_mass"] >= self.params.min_choice_mass


def mean(values: pl.Series) -> float:
    return float(values.to_numpy().mean())


def means(
    frame: pl.DataFrame, keys: list[str], columns: list[str], counts: str = "count"
) -> pl.DataFrame:
    """Return group means and sizes, summed in row order: polars' own differ from run to run."""
    lists = frame.group_by(keys, maintain_order=True).agg(columns)
    size = pl.col(columns[0]).list.len().alias(counts)
    return lists.with_columns(size, pl.col(columns).list.mean())


def p_yes(log_odds: pl.Expr) -> pl.Expr:
    return 1 / (1 + (-log_odds).exp())


def signed_scores(scores: pl.DataFrame, items: pl.DataFrame, names: list[str]) -> pl.DataFrame:
    """Return a row per score and label of its item.

    It adds `label`, `sign`, `y` (signed log-odds), `yes` and `probability` (signed, around 0).
    """
    columns = [LABEL + name for name in names]
    long = items.unpivot(columns, index="item_id", variable_name="label", value_name="sign")
    named = pl.col("label").str.strip_prefix(LABEL)
    concerned = long.filter(pl.col("sign") != 0).with_columns(named)
    rows = scores.join(concerned, on="item_id", maintain_order="left_right")
    sign, yes = pl.col("sign"), p_yes(pl.col("log_odds"))
    y, probability = sign * pl.col("log_odds"), sign * (yes - 0.5)
    return rows.with_columns(y=y, yes=yes, probability=probability)


def at_base(column: str, key: str) -> pl.Expr:
    """Return a column's value in the same key's row at coefficient 0."""
    return pl.col(column).filter(pl.col("coefficient") == 0).first().over(key)


def movements(scores: pl.DataFrame, items: pl.DataFrame, target: str) -> pl.DataFrame:
    """Return the target's signed scores with `effect`, their change from the base, in both."""
    change, nats = (pl.col(name) - at_base(name, "item_id") for name in ("probability", "y"))
    rows = signed_scores(scores, items, [target])
    return rows.with_columns(effect=change, effect_log_odds=nats)


def in_both(*columns: str) -> list[str]:
    """Return the names of columns in probability and in log-odds."""
    return [column + suffix for suffix in SUFFIXES for column in columns]


def renaming(**names: str) -> dict[str, str]:
    """Return old -> new name of columns in probability and in log-odds."""
    return {old + suffix: new + suffix for suffix in SUFFIXES for old, new in names.items()}


def exchanged(rows: pl.DataFrame) -> pl.DataFrame:
    """Return a table with effects in log-odds under the plain names, and the plain ones in turn."""
    plain = [name for name in rows.columns if name + LOG_ODDS in rows.columns]
    ours = [name + LOG_ODDS for name in plain]
    return rows.rename(dict(zip(plain + ours, ours + plain, strict=True)))


def half_span(columns: Sequence[str]) -> pl.Expr:
    """Return columns times the sign of c: the mean over +c and -c is half the span between them.

    It is never the better arm alone: a method that moves both arms alike gets no credit.
    """
    return pl.col(columns) * pl.col("coefficient").sign()


def fold_arms(
    rows: pl.DataFrame, keys: list[str], spans: Sequence[str], averaged: Sequence[str] = ()
) -> pl.DataFrame:
    """Return by keys and |c| half the span of columns, and the means of others over the arms."""
    arms = rows.filter(pl.col("coefficient") != 0).with_columns(
        half_span(spans), pl.col("coefficient").abs(), pl.col(averaged).cast(pl.Float64)
    )
    return means(arms, [*keys, "coefficient"], [*spans, *averaged])


def at_one(rows: pl.DataFrame) -> pl.DataFrame:
    """Return each method's rows at the |c| nearest to one; of two as near, at the smaller."""
    size = pl.col("coefficient").abs()
    nearest = size.sort_by((size - 1).abs(), size).first().over("method")
    return rows.filter(pl.col("coefficient") != 0).filter(size == nearest)
