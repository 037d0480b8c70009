"""Frames ready to draw: what the figures show beyond the tables of a study."""

import polars as pl

from pipeline.metrics.regression import ALPHA
from pipeline.metrics.scores import fold_arms, renaming
from pipeline.support.schemas import MEAN


def random_band(effects: pl.DataFrame) -> pl.DataFrame:
    """Return the lowest, highest half-span and mean cost of random directions, by |c| from 0 on."""
    single = effects.filter((pl.col("method") == "random") & (pl.col("seed") != MEAN))
    half = pl.col("target_effect")
    band = (
        fold_arms(single, ["seed"], ["target_effect"], ["delta_nll"])
        .group_by("coefficient")
        .agg(half.min().alias("low"), half.max().alias("high"), pl.col("delta_nll").mean())
        .sort("coefficient")
    )
    return pl.concat([band.clear(1).fill_null(0), band]) if band.height else band


def frontier(points: pl.DataFrame) -> pl.DataFrame:
    """Return the rows whose target_effect is above 0 and above all at the same or lower cost."""
    ordered = points.sort("delta_nll", "target_effect", descending=[False, True])
    best_before = pl.col("target_effect").cum_max().shift(1, fill_value=0.0).clip(0.0)
    return ordered.filter(pl.col("target_effect") > best_before)


def frontier_steps(arms: pl.DataFrame, equal: pl.DataFrame) -> pl.DataFrame:
    """Return the frontier of all measured points with a dose but random, up to the largest cost."""
    dosed = pl.col("method").is_in(equal.filter("calibrated")["method"].to_list())
    points = arms.filter(dosed).select("method", "delta_nll", "target_effect")
    best = frontier(points.filter(pl.col("method") != "random"))
    return pl.concat([best, best.tail(1).with_columns(delta_nll=pl.lit(points["delta_nll"].max()))])


def value_halves(values: pl.DataFrame, coefficient: float) -> pl.DataFrame:
    """Return method, label, `half` the change from -c to +c, n_items, and whether q < 0.05.

    `half_log_odds` is the same in nats.
    """
    keys, names = ["method", "label"], renaming(change="half")
    rows = values.filter(pl.col("coefficient").abs() == coefficient)
    halves = fold_arms(rows, keys, list(names)).rename(names).drop("coefficient", "count")
    significant = (pl.col("q").cast(pl.Float64) < ALPHA).fill_null(False).alias("significant")
    about = rows.filter(pl.col("coefficient") > 0).select(*keys, "n_items", significant)
    return halves.join(about, on=keys, maintain_order="left")


def most_moved(halves: pl.DataFrame, target: str) -> list[str]:
    """Return the labels, the target first, the others by their mean |change| over methods."""
    size = pl.col("half").abs().mean()
    order = halves.group_by("label").agg(size).sort("half", "label", descending=[True, False])
    return [target, *order.filter(pl.col("label") != target)["label"]]


def excluded_counts(effects: pl.DataFrame, n_items: int) -> pl.DataFrame:
    """Return method, coefficient, `share` and `count` of the items below the choice-mass gate."""
    share = 1 - pl.col("answered")
    count = (share * n_items).round().cast(pl.Int64)
    return effects.filter(seed=MEAN).select("method", "coefficient", share=share, count=count)
