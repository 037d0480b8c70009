"""The report's main tables: effects, seeds, values, ablations."""

import polars as pl

from pipeline.metrics.drawn import value_halves
from pipeline.metrics.scores import at_one, fold_arms
from pipeline.report.columns import (
    Cell,
    Row,
    build,
    digits,
    general,
    interval,
    marked_method,
    method,
    show,
    used,
)
from pipeline.report.figures.words import in_order, name_of, short_labels
from pipeline.report.results import Results
from pipeline.support.formats import p_value, with_sign
from pipeline.support.schemas import MEAN

EFFECT: dict[str, Cell] = {
    "Effect": show("target_effect"), "95 % interval": interval(),
    "at +c": show("up"), "at −c": show("down"),
}  # fmt: skip
EQUAL_COST: dict[str, Cell] = {
    "Method": marked_method,
    "c (mean over seeds)": used,
    **EFFECT,
    "SD over seeds": show("seed_sd"),
    "p (clustered)": show("p_clustered", p_value),
    "Side effects": show("side_effect"),
    "Δ NLL": show("delta_nll"),
    "Share of oracle": show("oracle_share", digits(2)),
}
FULL: dict[str, Cell] = {
    "Method": marked_method,
    "±c": show("coefficient", general("{:g}")),
    **EFFECT,
    "p (clustered)": show("p_clustered", p_value),
    "p (pooled)": show("p_pooled", p_value),
    "Slope (nats)": show("slope_clustered", digits(2)),
    "Side effects": show("side_effect"),
    "Δ NLL": show("delta_nll"),
    "Gain (%)": show("normalized_gain", digits(1)),
    "Choice mass": show("choice_mass"),
    "Share of oracle": show("oracle_share", digits(2)),
    "Seeds": show("n_seeds", str),
    "SD over seeds": show("seed_sd"),
    "n": show("n_dilemmas", str),
}
SEEDS: dict[str, Cell] = {
    "Method": method,
    "Seed": show("seed", str),
    "Effect": show("target_effect"),
    "at +c": show("up"),
    "95 % interval at +c": interval("up_low", "up_high"),
    "at −c": show("down"),
    "95 % interval at −c": interval("down_low", "down_high"),
    "Side effects": show("side_effect"),
    "Δ NLL": show("delta_nll"),
}
SEEDS_EQUAL_COST: dict[str, Cell] = {
    "Method": method,
    "Seed": show("seed", str),
    "±c": show("coefficient", general("{:.2f}")),
    "Effect": show("effect"),
}


def source(results: Results) -> pl.DataFrame:
    """The published README's results table in its own layout, best normalized gain first."""
    arms, equal = results.tables["arms"], results.tables["equal_cost"]
    behaviour = results.params.behaviour
    target = "Truth" if behaviour == "honesty" else behaviour

    def coefficient(row: Row) -> str:
        return f"±{row['used']:.2g} (equal cost)" if "used" in row else f"±{row['coefficient']:g}"

    rows = at_one(arms).to_dicts() + equal.filter("calibrated").to_dicts()
    return build(
        sorted(rows, key=lambda row: -row["normalized_gain"]),
        {
            "Method": marked_method,
            "Coeff": coefficient,
            f"Target Effect (Δ {target} ↑)": show("target_effect"),
            "at +c": show("up"),
            "at −c": show("down"),
            "Side Effects (Δ Other ↓)": show("side_effect"),
            "p-value": show("p_clustered", p_value),
            "Output Quality (Δ NLL ↓)": show("delta_nll"),
            "Normalized Gain (%)": show("normalized_gain", digits(2)),
        },
    )


def equal_cost(results: Results) -> pl.DataFrame:
    """Every method at its dose, best effect first."""
    rows = results.tables["equal_cost"]
    return build(rows.sort("target_effect", descending=True), EQUAL_COST)


def full(results: Results) -> pl.DataFrame:
    """Every |c|: both arms, interval, both p-values, share of the oracle, and n."""
    return build(results.tables["arms"], FULL)


def seeds(results: Results) -> pl.DataFrame:
    """The effect of every seed's own adapter at ±1 (or nearest); methods with one are left out."""
    keys = ["method", "seed"]
    single = results.tables["effects"].filter(pl.col("seed") != MEAN)
    rows = at_one(single.filter(pl.col("seed").n_unique().over("method") > 1))
    halves = fold_arms(rows, keys, "target_effect", ["side_effect", "delta_nll"])
    for arm, sign in (("up", 1), ("down", -1)):
        names = {"target_effect": arm, "ci_low": f"{arm}_low", "ci_high": f"{arm}_high"}
        own = rows.filter(pl.col("coefficient").sign() == sign).select(*keys, *names).rename(names)
        halves = halves.join(own, on=keys, maintain_order="left")
    order = in_order(halves["method"].to_list())
    return build(sorted(halves.to_dicts(), key=lambda row: order.index(row["method"])), SEEDS)


def seeds_equal_cost(results: Results) -> pl.DataFrame:
    """The effect of every seed alone at its own dose; methods with one seed are left out."""
    several = results.seed_effects.filter(pl.len().over("method") > 1)
    return build(several, SEEDS_EQUAL_COST)


def values(results: Results) -> pl.DataFrame:
    """The change of every value, the target first, a column per method; * where q < 0.05."""
    halves = value_halves(results.tables["values"], results.unit)
    marked = [
        with_sign(half) + "*" * significant
        for half, significant in halves.select("half", "significant").iter_rows()
    ]
    wide = halves.with_columns(pl.Series("half", marked)).pivot(
        "method", index=["label", "n_items"], values="half", maintain_order=True
    )
    words, target = short_labels(wide["label"].to_list()), results.target.label
    methods = in_order(halves["method"].to_list())
    return build(
        sorted(wide.to_dicts(), key=lambda row: (row["label"] != target, row["label"])),
        {
            "Value": show("label", words.__getitem__),
            "Items": show("n_items", str),
            **{name_of(method): show(method, str) for method in methods},
        },
    )
