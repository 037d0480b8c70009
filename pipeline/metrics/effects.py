"""From scores to effects: pure functions from tables to tables.

Signed log-odds = label x log_odds, no further negation: a model that always takes the side with the
value scores above 0, one that says Yes to everything scores 0. The probability score is label x
(p_yes - 1/2), so that a difference of two means is a difference in the probability of the choice
that carries the value.
"""

from typing import Any

import numpy as np
import polars as pl
from scipy import stats

from pipeline.metrics.regression import clustered_slope, pooled_slope
from pipeline.study.sections import StatisticsParams
from pipeline.support.errors import InputError
from pipeline.support.schemas import LABEL, labels

COHERENT = 0.8  # a coefficient counts as coherent if this share of items has enough choice mass


def mean(values: pl.Series) -> float:
    return float(values.to_numpy().mean())


def means(
    frame: pl.DataFrame, keys: list[str], columns: list[str], counts: str = "count"
) -> pl.DataFrame:
    """Return group means and sizes, summed in row order: polars' parallel means differ in the last
    bit from run to run.
    """
    lists = frame.group_by(keys, maintain_order=True).agg(columns)
    return lists.with_columns(
        pl.col(columns[0]).list.len().alias(counts), pl.col(columns).list.mean()
    )


def p_yes(log_odds: pl.Expr) -> pl.Expr:
    return 1 / (1 + (-log_odds).exp())


def signed(scores: pl.DataFrame, items: pl.DataFrame, label: str) -> pl.DataFrame:
    """Return the rows that the label concerns, with `y` (signed log-odds) and `probability`
    (signed, around 0).
    """
    labelled = items.select("item_id", pl.col(LABEL + label).alias("label")).filter(
        pl.col("label") != 0
    )
    return scores.join(labelled, on="item_id", maintain_order="left").with_columns(
        (pl.col("label") * pl.col("log_odds")).alias("y"),
        (pl.col("label") * (p_yes(pl.col("log_odds")) - 0.5)).alias("probability"),
    )


def mean_over_seeds(scores: pl.DataFrame) -> pl.DataFrame:
    """Return one row per item and coefficient: log-odds, choice mass and NLL averaged over
    seeds.
    """
    keys = ["item_id", "dilemma_id", "coefficient"]
    return means(scores, keys, ["log_odds", "choice_mass", "nll"]).drop("count")


def with_base(scores: pl.DataFrame, base: pl.DataFrame) -> pl.DataFrame:
    """Return the base's rows, coefficient 0, above a method's."""
    columns = ["item_id", "dilemma_id", "coefficient", "log_odds", "choice_mass", "nll"]
    return pl.concat([base.select(columns), scores.select(columns)])


def side_labels(items: pl.DataFrame, target: str, opposite: list[str], min_items: int) -> list[str]:
    """Return the labels that count as side effects: all frameworks but raw values, unless raw
    values are all there is.
    """
    frameworks = {name.split("/")[0] for name in labels(items)}
    raw = frameworks == {"Value"}
    names = [
        name
        for name in labels(items)
        if name not in (target, *opposite) and (raw or not name.startswith("Value/"))
    ]
    return [name for name in names if enough(items, name, min_items)]


def enough(items: pl.DataFrame, label: str, min_items: int) -> bool:
    """Say whether a label concerns enough items, on at least two dilemmas, for a mean and its
    error.
    """
    rows = items.filter(pl.col(LABEL + label) != 0)
    return rows.height >= min_items and rows["dilemma_id"].n_unique() > 1


def label_means(scores: pl.DataFrame, items: pl.DataFrame, names: list[str]) -> pl.DataFrame:
    """Return the mean probability score of each label at each coefficient: columns label,
    coefficient, score, n_items.
    """
    columns = [LABEL + name for name in names]
    long = items.select("item_id", *columns).unpivot(
        columns, index="item_id", variable_name="label", value_name="sign"
    )
    rows = scores.join(long.filter(pl.col("sign") != 0), on="item_id", maintain_order="left_right")
    scored = rows.with_columns((pl.col("sign") * (p_yes(pl.col("log_odds")) - 0.5)).alias("score"))
    table = means(scored, ["label", "coefficient"], ["score"], counts="n_items")
    return table.with_columns(pl.col("label").str.strip_prefix(LABEL)).sort("label", "coefficient")


def changes(table: pl.DataFrame) -> pl.DataFrame:
    """Return label_means with `change`, the difference from the same label's score at coefficient
    0.
    """
    base = table.filter(pl.col("coefficient") == 0).select("label", pl.col("score").alias("base"))
    return table.join(base, on="label", maintain_order="left").with_columns(
        (pl.col("score") - pl.col("base")).alias("change")
    )


def bootstrap(rows: pl.DataFrame, column: str, params: StatisticsParams) -> tuple[float, float]:
    """Return the 95 % percentile interval of a mean over rows; dilemmas are resampled, with all
    their rows.
    """
    clusters = means(rows, ["dilemma_id"], [column])

    def ratio(total, count, axis):
        return total.sum(axis=axis) / count.sum(axis=axis)

    totals, counts = (
        (clusters[column] * clusters["count"]).to_numpy(),
        clusters["count"].cast(pl.Float64).to_numpy(),
    )
    found = stats.bootstrap(
        (totals, counts), ratio, paired=True, vectorized=True, n_resamples=params.bootstrap, method="percentile",
        rng=np.random.default_rng(params.seed),
    )  # fmt: skip
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def oracle_effect(items: pl.DataFrame, label: str, coefficient: float) -> float | None:
    """Return the effect of a perfect change of persona (reference world only)."""
    if "oracle_neutral" not in items.columns or coefficient == 0:
        return None
    rows = items.filter(pl.col(LABEL + label) != 0)
    pole = "oracle_positive" if coefficient > 0 else "oracle_negative"
    change = pl.col(LABEL + label) * (p_yes(pl.col(pole)) - p_yes(pl.col("oracle_neutral")))
    return float(rows.select(change.mean()).item())


def share(effect: float, of: float | None) -> float | None:
    return effect / of if of else None


def normalized_gain(effect: float, delta_nll: float) -> float:
    """Return 100 x effect / (1 + delta NLL) (InnerPiSSA); an NLL that falls costs nothing."""
    return 100 * effect / (1 + max(delta_nll, 0.0))


def movements(scores: pl.DataFrame, items: pl.DataFrame, target: str) -> pl.DataFrame:
    """Return the target's rows with `effect`, the change of the probability score from the same
    item at coefficient 0.
    """
    rows = signed(scores, items, target)
    base = rows.filter(pl.col("coefficient") == 0).select(
        "item_id", pl.col("probability").alias("base")
    )
    return rows.join(base, on="item_id", maintain_order="left").with_columns(
        (pl.col("probability") - pl.col("base")).alias("effect")
    )


def method_effects(
    scores: pl.DataFrame,
    items: pl.DataFrame,
    target: str,
    opposite: list[str],
    params: StatisticsParams,
) -> list[dict[str, Any]]:
    """Return one record per non-zero coefficient of one method and seed; `scores` includes the base
    at coefficient 0.
    """
    moved = movements(scores, items, target)
    if moved["dilemma_id"].n_unique() < 2:
        raise InputError(
            f"label {target!r} concerns fewer than 2 dilemmas: take more items, or another "
            "behaviour"
        )
    side = changes(
        label_means(scores, items, side_labels(items, target, opposite, params.min_items))
    )
    base_nll = mean(scores.filter(pl.col("coefficient") == 0)["nll"])
    records = []
    for c in sorted(set(scores["coefficient"]) - {0.0}):
        at, everything = (frame.filter(pl.col("coefficient") == c) for frame in (moved, scores))
        effect, delta = mean(at["effect"]), mean(everything["nll"]) - base_nll
        low, high = bootstrap(at, "effect", params)
        answered = mean(everything["choice_mass"] >= params.min_choice_mass)
        records.append({
            "coefficient": c, "target_score": mean(at["probability"]), "target_effect": effect,
            "ci_low": low, "ci_high": high, "target_log_odds": mean(at["y"]),
            "side_effect": mean(side.filter(pl.col("coefficient") == c)["change"].abs()) if side.height else None,
            "delta_nll": delta, "normalized_gain": normalized_gain(effect * np.sign(c), delta),
            "choice_mass": mean(everything["choice_mass"]), "answered": answered, "coherent": answered >= COHERENT,
            "oracle_share": share(effect, oracle_effect(items, target, c)),
            "yes_rate": mean(everything["log_odds"] > 0),
            **slopes(moved, c), "n_items": at.height, "n_dilemmas": at["dilemma_id"].n_unique(),
        })  # fmt: skip
    return records


def slopes(moved: pl.DataFrame, c: float) -> dict[str, float]:
    """Return the dose-response over {-|c|, 0, |c|}: clustered by dilemma, and pooled as in the
    papers.
    """
    rows = moved.filter(pl.col("coefficient").is_in([-abs(c), 0.0, abs(c)]))
    return clustered_slope(rows).named("clustered") | pooled_slope(rows).named("pooled")


def arm_effects(
    records: list[dict[str, Any]],
    scores: pl.DataFrame,
    items: pl.DataFrame,
    target: str,
    params: StatisticsParams,
) -> list[dict[str, Any]]:
    """Fold the two arms of each |c| for the papers' table: half the span between +c and -c, never
    the better arm alone.

    asymmetry = effect(+c) + effect(-c): 0 if the arms mirror each other; where each has its right
    sign, how much further +c moves than -c.
    """
    by_c, moved = (
        {record["coefficient"]: record for record in records},
        movements(scores, items, target),
    )
    folded = []
    for c in sorted(c for c in by_c if c > 0):
        up, down = by_c[c], by_c[-c]
        halves = moved.filter(pl.col("coefficient").abs() == c).with_columns(
            pl.col("effect") * pl.col("coefficient").sign()
        )
        low, high = bootstrap(
            halves, "effect", params
        )  # the mean over both arms' rows is half the span
        even_low, even_high = bootstrap(
            moved.filter(pl.col("coefficient").abs() == c), "effect", params
        )
        both = {
            key: (up[key] + down[key]) / 2
            for key in ("side_effect", "delta_nll", "choice_mass")
            if up[key] is not None
        }
        effect = (up["target_effect"] - down["target_effect"]) / 2
        best, worst = oracle_effect(items, target, c), oracle_effect(items, target, -c)
        folded.append({
            "coefficient": c, "target_effect": effect, "ci_low": low, "ci_high": high, "side_effect": None, **both,
            "up": up["target_effect"], "down": down["target_effect"],
            "asymmetry": up["target_effect"] + down["target_effect"],
            "asymmetry_low": 2 * even_low, "asymmetry_high": 2 * even_high,
            "coherent": up["coherent"] and down["coherent"],
            "normalized_gain": normalized_gain(effect, both["delta_nll"]),
            "oracle_share": share(effect, (best - worst) / 2) if best and worst else None,
            **{key: up[key] for key in up if key.endswith(("_clustered", "_pooled")) or key.startswith("n_")},
        })  # fmt: skip
    return folded
