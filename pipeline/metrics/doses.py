"""Equal cost: every method at ±1, with what these stand for and what they cost."""

import polars as pl

from pipeline.metrics.scores import at_one, means


def equal_cost(arms: pl.DataFrame, doses: pl.DataFrame) -> pl.DataFrame:
    """Return the arms at ±1 with the means over seeds of their raw coefficients and costs.

    `doses` has a row per method and seed. calibrated: c has a size. budget_reached: every seed's
    ±1 cost the budget, which is never so where c has no size. sign_decided: the probes decide every
    seed's sign; null where no sign is free.
    """
    reached = pl.col("budget_reached")
    said = doses.group_by("method", maintain_order=True).agg(
        reached.fill_null(False).all(),
        reached.is_not_null().all().alias("calibrated"),
        # Of nulls alone `min` makes null.
        pl.col("sign_decided").cast(pl.Int8).min().cast(pl.Boolean),
    )
    figures = [name for name in doses.columns if name.startswith(("raw_", "cost_", "p95_"))]
    about = means(doses, ["method"], figures).drop("count").join(said, on="method")
    return at_one(arms).join(about, on="method", maintain_order="left")


def random_ranks(equal: pl.DataFrame, seeds: pl.DataFrame) -> pl.DataFrame:
    """Add each method's place among single random directions at the same cost, and their number.

    A random direction's sign is arbitrary, so the effect in log-odds stands among the sizes of
    theirs: `random_rank` is 1 + how many are as large. It is null without a dose, and for `random`.
    """
    is_random = pl.col("method") == "random"
    sizes = seeds.filter(is_random)["effect_log_odds"].abs().to_list()
    ranked = pl.col("calibrated") & ~is_random & bool(sizes)
    effect = pl.col("target_effect_log_odds")
    rank = 1 + pl.sum_horizontal(pl.lit(0), *((effect <= size).cast(pl.Int64) for size in sizes))
    return equal.with_columns(
        pl.when(ranked).then(rank).alias("random_rank"), pl.lit(len(sizes)).alias("n_random")
    )
