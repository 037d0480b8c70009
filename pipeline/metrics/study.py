"""All methods of a study: raw scores -> the tables that the report shows."""

import math
from itertools import chain
from typing import Any

import polars as pl
from statsmodels.stats.multitest import multipletests

from pipeline.metrics.answers import answer_table
from pipeline.metrics.budget import budget_table
from pipeline.metrics.curves import curve_table
from pipeline.metrics.differences import difference_table
from pipeline.metrics.effects import (
    Record,
    arm_effects,
    enough,
    label_changes,
    method_effects,
    oracle_effect,
)  # fmt: skip
from pipeline.metrics.flips import flip_table
from pipeline.metrics.regression import clustered_slope
from pipeline.metrics.scores import SUFFIXES, Evaluation, at_one, fold_arms, in_both, signed_scores
from pipeline.metrics.sensitivity import sensitivity_table
from pipeline.support.schemas import MEAN, labels, numbers, texts

Tables = dict[str, pl.DataFrame]
# Each from all methods' scores and the evaluation.
FURTHER = {
    "sensitivity": sensitivity_table, "differences": difference_table, "nll_budget": budget_table,
    "answers": answer_table, "flips": flip_table, "curves": curve_table,
}  # fmt: skip
# Of a study without a target: the columns, without rows, that DVC's plots read.
UNMEASURED = pl.DataFrame(
    schema=texts("method") | numbers("coefficient", *in_both("target_effect"), "delta_nll")
)
HEADLINE = (
    *in_both("target_effect", "ci_low", "ci_high", "side_effect"), "delta_nll", "normalized_gain",
    "oracle_share",
)  # fmt: skip
# Of the likelihood's own log-odds, in nats per token: their names beside the answers'.
LIKELIHOOD_COLUMNS = {
    f"{name}_log_odds": f"{name}_likelihood"
    for name in ("target_effect", "ci_low", "ci_high", "up", "down", "seed_sd", "side_effect")
} | {name: f"{name}_likelihood" for name in ("p_clustered", "base_share")}


def analyse(cells: Tables, evaluation: Evaluation) -> Tables:
    """Return a study's tables by name; `cells` maps a method to all its seeds' scores, without 0.

    effects: a row per method, seed (and their mean) and coefficient.
    arms: a row per method and |coefficient|, averaged over seeds.
    values: the change of every label, per method and coefficient. The others: see `FURTHER`.
    """
    both = [over_seeds(method, scores, evaluation) for method, scores in cells.items()]
    effects, arms = (as_frame(list(chain(*part))) for part in zip(*both, strict=True))
    further = {name: table(cells, evaluation) for name, table in FURTHER.items()}
    return {"effects": effects, "arms": arms, "values": all_values(cells, evaluation)} | further


def untargeted(cells: Tables, evaluation: Evaluation) -> Tables:
    """Return the tables of a study without a target: the change of every value, and no effects."""
    empty = dict.fromkeys(("effects", "arms", *FURTHER), UNMEASURED)
    return empty | {"values": all_values(cells, evaluation)}


def with_likelihood(arms: pl.DataFrame, cells: Tables, evaluation: Evaluation) -> pl.DataFrame:
    """Put the effects of the form LIKELIHOOD beside arms, with the suffix `_likelihood`."""
    keys = ["method", "coefficient"]
    other = [row for own in cells for row in over_seeds(own, cells[own], evaluation)[1]]
    new = as_frame(other).select(*keys, *LIKELIHOOD_COLUMNS).rename(LIKELIHOOD_COLUMNS)
    return arms.join(new, on=keys, how="left", maintain_order="left")


def as_frame(records: list[Record]) -> pl.DataFrame:
    return pl.DataFrame(records, infer_schema_length=None)


def oracle_effects(evaluation: Evaluation) -> list[Record]:
    """Return what a perfect change of persona would do at -1 and +1; nothing on other sets."""
    about = evaluation.items, evaluation.target
    return [
        {
            "coefficient": c, "target_effect": effect,
            "target_effect_log_odds": oracle_effect(*about, c, log_odds=True),
        }
        for c in (-1.0, 1.0)
        if (effect := oracle_effect(*about, c)) is not None
    ]  # fmt: skip


def over_seeds(
    method: str, scores: pl.DataFrame, evaluation: Evaluation
) -> tuple[list[Record], list[Record]]:
    """Return the rows of `effects` and of `arms` of one method."""
    seeds = sorted(scores["seed"].unique())
    by_seed = [
        {"method": method, "seed": str(seed), **record}
        for seed in seeds
        for record in method_effects(scores.filter(seed=seed), evaluation)
    ]
    records = method_effects(scores, evaluation)
    spread, halves = seed_spread(as_frame(by_seed))
    rows = [
        {"method": method, "seed": MEAN, **record, **spread[record["coefficient"]]}
        for record in records
    ]
    arms = [
        {"method": method, "n_seeds": len(seeds), **arm, **halves[arm["coefficient"]]}
        for arm in arm_effects(records, scores, evaluation)
    ]
    return by_seed + rows, arms


def seed_spread(effects: pl.DataFrame) -> tuple[dict[float, Record], dict[float, Record]]:
    """Return the spread over seeds of the effect by c, and the SD of half the span by |c|."""

    def by_size(rows: pl.DataFrame, **measures: str) -> dict[float, Record]:
        spread = rows.group_by("coefficient").agg(
            getattr(pl.col(f"target_effect{suffix}"), measure)().alias(f"seed_{name}{suffix}")
            for name, measure in measures.items()
            for suffix in SUFFIXES
        )
        return {row.pop("coefficient"): row for row in spread.to_dicts()}

    halves = fold_arms(effects, ["seed"], in_both("target_effect"))
    return by_size(effects, sd="std", min="min", max="max"), by_size(halves, sd="std")


def all_values(cells: Tables, evaluation: Evaluation) -> pl.DataFrame:
    return pl.concat(value_table(method, rows, evaluation) for method, rows in cells.items())


def value_table(method: str, scores: pl.DataFrame, evaluation: Evaluation) -> pl.DataFrame:
    """Return every label's change at every coefficient, and its dose-response p over all of them.

    q: Benjamini-Hochberg adjusted p over labels other than the target and its opposite.
    """
    items, target, whole = evaluation.items, evaluation.target, evaluation.with_base(scores)
    least = evaluation.params.min_items
    names = [name for name in labels(items) if name == target or enough(items, name, least)]
    slopes = [clustered_slope(signed_scores(whole, items, [name])) for name in names]
    table = pl.DataFrame(
        {"label": names, "slope": [s.slope for s in slopes], "p": [s.p for s in slopes]}
    )
    side = table.filter(~pl.col("label").is_in([target, *evaluation.opposite]))
    adjusted = multipletests(side["p"].to_numpy(), method="fdr_bh")[1] if side.height else []
    q = side.select("label", pl.Series("q", adjusted, dtype=pl.Float64))
    rows: pl.DataFrame = label_changes(whole, items, names)
    for columns in (table, q):
        rows = rows.join(columns, on="label", how="left", maintain_order="left")
    return rows.select(pl.lit(method).alias("method"), pl.all())


def headline(arms: pl.DataFrame) -> dict[str, dict[str, float]]:
    """Return each method's main figures at the coefficient nearest to one, for `dvc metrics`."""
    figures: dict[str, dict[str, float]] = {}
    for row in at_one(arms).to_dicts():
        kept: dict[str, Any] = {name: row[name] for name in HEADLINE if row[name] is not None}
        # Small p are printed as 0.0 by `dvc metrics`, so their logarithm stands beside them.
        kept["p_clustered"] = row["p_clustered"]
        for kind in ("clustered", "pooled"):
            kept[f"log10_p_{kind}"] = math.log10(max(row[f"p_{kind}"], 1e-300))
        figures[row["method"]] = kept
    return figures
