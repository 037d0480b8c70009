"""All methods of a study: raw scores -> the tables that the report shows."""

import math
from dataclasses import dataclass
from typing import Any

import polars as pl
from statsmodels.stats.multitest import multipletests

from pipeline.metrics.answers import answer_table
from pipeline.metrics.budget import budget_table
from pipeline.metrics.curves import curve_table
from pipeline.metrics.differences import difference_table
from pipeline.metrics.effects import (
    arm_effects,
    changes,
    enough,
    label_means,
    mean,
    mean_over_seeds,
    method_effects,
    oracle_effect,
    signed,
    with_base,
)
from pipeline.metrics.flips import flip_table
from pipeline.metrics.question import Question
from pipeline.metrics.regression import clustered_slope
from pipeline.metrics.sensitivity import sensitivity_table
from pipeline.support.schemas import CALIBRATED, MEAN, RAW, labels


@dataclass
class Study:
    effects: pl.DataFrame
    """One row per method, seed (and their mean) and coefficient."""
    arms: pl.DataFrame
    """One row per method and |coefficient|, over the mean of seeds."""
    values: pl.DataFrame
    """One row per method, label and coefficient: the change of every value, with its q over the
    non-target labels.
    """
    equal_cost: pl.DataFrame
    """One row per method at its calibrated dose: as `arms`, with the coefficient that it took; a
    method without sizes at ±1.
    """
    oracle: list[dict[str, float]]
    further: dict[str, pl.DataFrame]
    """Tables by name: see `FURTHER`."""


# Each from all methods' scores and the question.
FURTHER = {
    "sensitivity": sensitivity_table,
    "differences": difference_table,
    "nll_budget": budget_table,
    "answers": answer_table,
    "flips": flip_table,
    "curves": curve_table,
}


def analyse(cells: dict[str, pl.DataFrame], question: Question) -> Study:
    """`cells` maps a method to the scores of all its seeds, without coefficient 0, which is the
    question's base.
    """
    effects, folded, values, equal = [], [], [], []
    for method, scores in cells.items():
        raw = scores.filter(pl.col("dose") == RAW)
        rows, arms = over_seeds(method, raw, question)
        effects += rows
        folded += arms
        values.append(value_table(method, with_base(mean_over_seeds(raw), question.base), question))
        equal.append(equal_cost(method, scores, question))
    oracle = [
        {"coefficient": c, "target_effect": e}
        for c in (-1.0, 1.0)
        if (e := oracle_effect(question.items, question.target, c)) is not None
    ]
    further = {name: table(cells, question) for name, table in FURTHER.items()}
    tables = [pl.DataFrame(rows, infer_schema_length=None) for rows in (effects, folded, equal)]
    return Study(tables[0], tables[1], pl.concat(values), tables[2], oracle, further)


def effects_of(scores: pl.DataFrame, question: Question) -> list[dict[str, Any]]:
    return method_effects(
        scores, question.items, question.target, question.opposite, question.params
    )


def over_seeds(
    method: str, scores: pl.DataFrame, question: Question
) -> tuple[list[dict], list[dict]]:
    """Return the rows of `Study.effects` and of `Study.arms` of one method."""
    seeds = sorted(scores["seed"].unique())
    whole = with_base(mean_over_seeds(scores), question.base)
    by_seed = [
        {"method": method, "seed": str(seed), **record}
        for seed in seeds
        for record in effects_of(
            with_base(scores.filter(pl.col("seed") == seed), question.base), question
        )
    ]
    records, spread, halves = (
        effects_of(whole, question),
        seed_spread(by_seed),
        half_spread(by_seed),
    )
    rows = by_seed + [
        {"method": method, "seed": MEAN, **r, **spread[r["coefficient"]]} for r in records
    ]
    arms = arm_effects(records, whole, question.items, question.target, question.params)
    return rows, [
        {"method": method, "n_seeds": len(seeds), **arm, "seed_sd": halves[arm["coefficient"]]}
        for arm in arms
    ]


def equal_cost(method: str, scores: pl.DataFrame, question: Question) -> dict[str, Any]:
    """Return one method's arm at its calibrated dose, whose size `used` may differ from seed to
    seed.

    A method whose coefficient has no size stands at its only one.
    """
    calibrated = scores.filter(pl.col("dose") == CALIBRATED)
    rows = calibrated if calibrated.height else scores
    sizes = rows["coefficient"].abs()
    _, arms = over_seeds(method, rows.with_columns(pl.col("coefficient").sign()), question)
    cost = {
        "calibrated": bool(calibrated.height),
        "used": mean(sizes),
        "used_min": sizes.min(),
        "used_max": sizes.max(),
    }
    return arms[0] | cost


def seed_spread(records: list[dict[str, Any]]) -> dict[float, dict[str, float | None]]:
    """Return the standard deviation and the range of the effect over seeds, by coefficient."""
    frame = pl.DataFrame(records, infer_schema_length=None).group_by("coefficient", maintain_order=True).agg(
        pl.col("target_effect").std().alias("seed_sd"),
        pl.col("target_effect").min().alias("seed_min"),
        pl.col("target_effect").max().alias("seed_max"),
    )  # fmt: skip
    return {row.pop("coefficient"): row for row in frame.to_dicts()}


def half_spread(records: list[dict[str, Any]]) -> dict[float, float | None]:
    """Return the standard deviation over seeds of half the span between +c and -c, by |c|."""
    size = pl.col("coefficient").abs()
    frame = pl.DataFrame(records, infer_schema_length=None)
    halves = frame.group_by("seed", size, maintain_order=True).agg(
        (pl.col("coefficient").sign() * pl.col("target_effect")).mean().alias("half")
    )
    return dict(
        halves.group_by("coefficient", maintain_order=True).agg(pl.col("half").std()).iter_rows()
    )


def value_table(method: str, scores: pl.DataFrame, question: Question) -> pl.DataFrame:
    """Return every label's change at every coefficient, and its dose-response p over all
    coefficients.

    q is the Benjamini-Hochberg adjusted p over the labels that are neither the target nor its
    opposite.
    """
    items, target, opposite = question.items, question.target, question.opposite
    names = [
        name
        for name in labels(items)
        if name == target or enough(items, name, question.params.min_items)
    ]
    found = [clustered_slope(signed(scores, items, name)) for name in names]
    table = pl.DataFrame(
        {"label": names, "slope": [s.slope for s in found], "p": [s.p for s in found]}
    )
    side = table.filter(~pl.col("label").is_in([target, *opposite]))
    adjusted = multipletests(side["p"].to_numpy(), method="fdr_bh")[1] if side.height else []
    q = side.select("label").with_columns(pl.Series("q", adjusted, dtype=pl.Float64))
    table = table.join(q, on="label", how="left", maintain_order="left")
    rows = changes(label_means(scores, items, names)).join(table, on="label", maintain_order="left")
    return rows.select(pl.lit(method).alias("method"), pl.all())


def headline(study: Study) -> dict[str, dict[str, float]]:
    """Return each method's main figures at the coefficient nearest to one, for `dvc metrics` and
    MLflow.
    """
    found = {}
    for method in study.arms["method"].unique(maintain_order=True):
        row = min(
            study.arms.filter(pl.col("method") == method).to_dicts(),
            key=lambda r: abs(r["coefficient"] - 1),
        )
        names = (
            "target_effect",
            "ci_low",
            "ci_high",
            "side_effect",
            "delta_nll",
            "normalized_gain",
            "oracle_share",
        )
        kept = {name: row[name] for name in names if row[name] is not None}
        # Small p are printed as 0.0 by `dvc metrics`, so their logarithm stands beside them.
        logs = {
            f"log10_p_{kind}": math.log10(max(row[f"p_{kind}"], 1e-300))
            for kind in ("clustered", "pooled")
        }
        found[method] = kept | {"p_clustered": row["p_clustered"]} | logs
    return found
