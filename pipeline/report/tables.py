"""The report's main tables: effects, seeds, values."""

import polars as pl

from pipeline.metrics.drawn import value_halves
from pipeline.metrics.scores import SUFFIXES, at_one, fold_arms, in_both, renaming
from pipeline.report import columns
from pipeline.report.columns import Columns, build, digits, marked_method, method, show, twice
from pipeline.report.figures.words import in_order, name_of, short_labels
from pipeline.report.results import Results
from pipeline.support.formats import p_value, with_sign
from pipeline.support.schemas import MEAN

EFFECT: Columns = {
    "Effect": show("target_effect"), "95 % interval": columns.interval(),
    "at +c": show("up"), "at −c": show("down"),
}  # fmt: skip
SPREAD: Columns = {"SD over seeds": show("seed_sd"), "Side effects": show("side_effect")}
LIKELIHOOD: Columns = {
    "Effect (likelihood)": show("target_effect_likelihood"),
    "95 % interval (likelihood)": columns.interval("ci_low_likelihood", "ci_high_likelihood"),
    "at +c (likelihood)": show("up_likelihood"),
    "at −c (likelihood)": show("down_likelihood"),
    "p (likelihood)": show("p_clustered_likelihood", p_value),
}
FULL: Columns = {
    "p (clustered)": show("p_clustered", p_value),
    "p (pooled)": show("p_pooled", p_value),
    "Slope (nats)": show("slope_clustered", digits(2)),
    "Δ NLL": show("delta_nll"),
    "Gain (%)": show("normalized_gain", digits(1)),
    "Choice mass": show("choice_mass"),
    "Share of oracle": show("oracle_share", digits(2)),
    "Seeds": show("n_seeds", str),
    "n": show("n_dilemmas", str),
}
SEED: Columns = {"Method": method, "Seed": show("seed", str)}
SEED_EFFECT: Columns = {
    "Effect": show("target_effect"),
    "at +c": show("up"),
    "95 % interval at +c": columns.interval("up_low", "up_high"),
    "at −c": show("down"),
    "95 % interval at −c": columns.interval("down_low", "down_high"),
    "Side effects": show("side_effect"),
}


def likelihood(rows: pl.DataFrame) -> Columns:
    """Return the columns of the other form of scoring, where both were asked for."""
    return LIKELIHOOD if "target_effect_likelihood" in rows.columns else {}


def some(*names: str) -> Columns:
    return {name: FULL[name] for name in names}


def source(results: Results) -> pl.DataFrame:
    """The published README's results table in its own layout, best normalized gain first."""
    behaviour = results.params.behaviour
    target = "Truth" if behaviour == "honesty" else behaviour
    effects = {
        f"Target Effect (Δ {target} ↑)": show("target_effect"),
        "at +c": show("up"),
        "at −c": show("down"),
        "Side Effects (Δ Other ↓)": show("side_effect"),
    }
    return build(results.tables["equal_cost"].sort("normalized_gain", descending=True), {
        "Method": marked_method,
        "Coeff": show("coefficient", "±{:g}".format),
        **twice(effects, results.log_odds_first),
        "p-value": show("p_clustered", p_value),
        "Output Quality (Δ NLL ↓)": show("delta_nll"),
        "Normalized Gain (%)": show("normalized_gain", digits(2)),
    })  # fmt: skip


def rank(n_random: int) -> Columns:
    """Return the column of places among random directions, where there are some."""
    return (
        {f"Rank among {n_random} random directions": show("random_rank", str)} if n_random else {}
    )


def summary(results: Results) -> pl.DataFrame:
    """The table `equal_cost` for a narrow page: interval and arms are in log-odds (nats)."""
    in_nats = {head: columns.nats(cell) for head, cell in EFFECT.items()}
    return build(results.tables["equal_cost"].sort("target_effect_log_odds", descending=True), {
        "Method": lambda row: marked_method(row) + columns.missed(row),
        "Effect (log-odds)": in_nats.pop("Effect"),
        **in_nats,
        "Effect (probability)": EFFECT["Effect"],
        **rank(results.n_random),
        **some("p (clustered)", "Δ NLL", "Choice mass"),
    })  # fmt: skip


def equal_cost(results: Results) -> pl.DataFrame:
    """Every method at ±1, best effect first."""
    rows, first = results.tables["equal_cost"], SUFFIXES[results.log_odds_first]
    return build(rows.sort(f"target_effect{first}", descending=True), {
        "Method": marked_method,
        **twice(EFFECT | SPREAD, results.log_odds_first),
        **some("p (clustered)"),
        **rank(results.n_random),
        **likelihood(rows),
        **some("Δ NLL", "Share of oracle"),
        "KL at +c / −c": columns.cost,
        "Raw +c / −c": columns.raw,
    })  # fmt: skip


def full(results: Results) -> pl.DataFrame:
    """Every |c|: both arms, interval, both p-values, share of the oracle, and n."""
    about = {"Method": marked_method, "±c": show("coefficient", "{:g}".format)}
    rows, effects = results.tables["arms"], twice(EFFECT | SPREAD, results.log_odds_first)
    return build(rows, about | effects | likelihood(rows) | FULL)


def seeds(results: Results) -> pl.DataFrame:
    """The effect of every seed's own adapter at ±1 (or nearest); methods with one are left out."""
    keys = ["method", "seed"]
    single = results.tables["effects"].filter(pl.col("seed") != MEAN)
    rows = at_one(single.filter(pl.col("seed").n_unique().over("method") > 1))
    averaged = [*in_both("side_effect"), "delta_nll"]
    halves = fold_arms(rows, keys, in_both("target_effect"), averaged)
    for arm, sign in (("up", 1), ("down", -1)):
        names = renaming(target_effect=arm, ci_low=f"{arm}_low", ci_high=f"{arm}_high")
        own = rows.filter(pl.col("coefficient").sign() == sign).select(*keys, *names).rename(names)
        halves = halves.join(own, on=keys, maintain_order="left")
    order = in_order(halves["method"].to_list())
    return build(
        sorted(halves.to_dicts(), key=lambda row: order.index(row["method"])),
        SEED | twice(SEED_EFFECT, results.log_odds_first) | some("Δ NLL"),
    )


def values(results: Results) -> pl.DataFrame:
    """The change of every value, the target first, a column per method; * where q < 0.05."""
    halves = value_halves(results.tables["values"], results.unit)
    write = columns.pair(show("half", with_sign), results.log_odds_first)
    marked = [write(row) + "*" * row["significant"] for row in halves.to_dicts()]
    wide = halves.with_columns(pl.Series("half", marked)).pivot(
        "method", index=["label", "n_items"], values="half", maintain_order=True
    )
    words, target = short_labels(wide["label"].to_list()), results.target.label
    methods = in_order(halves["method"].to_list())
    about = {"Value": show("label", words.__getitem__), "Items": show("n_items", str)}
    return build(
        sorted(wide.to_dicts(), key=lambda row: (row["label"] != target, row["label"])),
        about | {name_of(method): show(method, str) for method in methods},
    )
