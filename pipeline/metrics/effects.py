"""Effects of one method by coefficient, and of its two arms together."""

from typing import Any

import numpy as np
import polars as pl
from scipy import stats

from pipeline.metrics.regression import clustered_slope, pooled_slope
from pipeline.metrics.scores import (
    SUFFIXES,
    Evaluation,
    at_base,
    at_one,
    fold_arms,
    half_span,
    in_both,
    mean,
    means,
    p_yes,
    renaming,
    signed_scores,
)  # fmt: skip
from pipeline.support.errors import InputError
from pipeline.support.schemas import LABEL, MEAN, labels
from pipeline.support.sections import StatisticsParams

Record = dict[str, Any]


def enough(items: pl.DataFrame, label: str, min_items: int) -> bool:
    """Say whether a label concerns enough items, on two dilemmas or more, for a mean's error."""
    rows = items.filter(pl.col(LABEL + label) != 0)
    return rows.height >= min_items and rows["dilemma_id"].n_unique() > 1


def side_labels(evaluation: Evaluation) -> list[str]:
    """Return the labels that count as side effects: raw values only where they are all there is."""
    items, own = evaluation.items, (evaluation.target, *evaluation.opposite)
    every = labels(items)
    places = [name for name in every if not name.startswith("Value/")]
    least = evaluation.params.min_items
    return [n for n in places or every if n not in own and enough(items, n, least)]


def label_changes(scores: pl.DataFrame, items: pl.DataFrame, names: list[str]) -> pl.DataFrame:
    """Return label, coefficient, `score` (mean signed probability), n_items, base and `change`.

    `change_log_odds` is the change of the mean signed log-odds.
    """
    rows = signed_scores(scores, items, names).rename({"probability": "score"})
    table = means(rows, ["label", "coefficient"], ["score", "y"], counts="n_items")
    table = table.sort("label", "coefficient").with_columns(
        at_base("n_items", "label"), at_base("score", "label").alias("base")
    )
    change, nats = pl.col("score") - pl.col("base"), pl.col("y") - at_base("y", "label")
    return table.with_columns(change=change, change_log_odds=nats).drop("y")


def bootstrap(rows: pl.DataFrame, column: str, params: StatisticsParams) -> tuple[float, float]:
    """Return the 95 % percentile interval of a mean over rows; whole dilemmas are resampled."""
    clusters = means(rows, ["dilemma_id"], [column])
    counts = clusters["count"].cast(pl.Float64).to_numpy()

    def ratio(total, count, axis):
        return total.sum(axis=axis) / count.sum(axis=axis)

    interval = stats.bootstrap(
        ((clusters[column] * clusters["count"]).to_numpy(), counts), ratio, paired=True,
        vectorized=True, n_resamples=params.bootstrap, method="percentile",
        rng=np.random.default_rng(params.seed),
    ).confidence_interval  # fmt: skip
    return float(interval.low), float(interval.high)


def oracle_effect(
    items: pl.DataFrame, label: str, coefficient: float, log_odds: bool = False
) -> float | None:
    """Return the effect of a perfect change of persona (reference world only)."""
    if "oracle_neutral" not in items.columns or coefficient == 0:
        return None
    rows = items.filter(pl.col(LABEL + label) != 0)
    told = pl.col("oracle_positive" if coefficient > 0 else "oracle_negative")
    neutral = pl.col("oracle_neutral")
    change = told - neutral if log_odds else p_yes(told) - p_yes(neutral)
    return float(rows.select((pl.col(LABEL + label) * change).mean()).item())


def normalized_gain(effect: float, delta_nll: float) -> float:
    """Return 100 x effect / (1 + delta NLL) (InnerPiSSA); an NLL that falls costs nothing."""
    return 100 * effect / (1 + max(delta_nll, 0.0))


def method_effects(scores: pl.DataFrame, evaluation: Evaluation) -> list[Record]:
    """Return one record per non-zero coefficient of one method: the mean of its seeds' own values.

    Raises InputError for a target on fewer than two dilemmas.
    """
    params, items, target = evaluation.params, evaluation.items, evaluation.target
    whole, moved = evaluation.with_base(scores), evaluation.movements(scores)
    if moved["dilemma_id"].n_unique() < 2:
        said = f"label {target!r} concerns fewer than 2 dilemmas"
        raise InputError(f"{said}: take more items, or another behaviour")
    names = side_labels(evaluation)
    side = pl.concat(
        label_changes(evaluation.with_base(own), items, names)
        for own in scores.partition_by("seed", maintain_order=True)
    )
    base_nll = mean(evaluation.base["nll"])
    records = []
    for c in sorted(set(scores["coefficient"])):
        at, rows, changes = (frame.filter(coefficient=c) for frame in (moved, whole, side))
        effect, delta_nll = mean(at["effect"]), mean(rows["nll"]) - base_nll
        answered, most = mean(evaluation.answered(rows)), oracle_effect(items, target, c)
        records.append({
            "coefficient": c, "target_score": mean(at["probability"]),
            "target_log_odds": mean(at["y"]),
            **measured(at, "effect", "target_effect", "ci", params),
            **{
                f"side_effect{suffix}": mean(changes[f"change{suffix}"].abs()) if names else None
                for suffix in SUFFIXES
            },
            "delta_nll": delta_nll,
            "normalized_gain": normalized_gain(effect * np.sign(c), delta_nll),
            "choice_mass": mean(rows["choice_mass"]), "answered": answered,
            "coherent": answered >= params.coherent_share,
            "oracle_share": effect / most if most else None,
            "yes_rate": mean(rows["log_odds"] > 0), **slopes(moved, c),
            "n_items": at.height, "n_dilemmas": at["dilemma_id"].n_unique(),
        })  # fmt: skip
    return records


def measured(
    rows: pl.DataFrame, column: str, name: str, limits: str, params: StatisticsParams
) -> Record:
    """Return the mean of a column and its 95 % interval, in probability and in log-odds."""
    record: Record = {}
    for suffix in SUFFIXES:
        low, high = bootstrap(rows, column + suffix, params)
        record |= {name + suffix: mean(rows[column + suffix])}
        record |= {f"{limits}_low{suffix}": low, f"{limits}_high{suffix}": high}
    return record


def slopes(moved: pl.DataFrame, c: float) -> dict[str, float]:
    """Return the slope over {-|c|, 0, |c|}: clustered by dilemma, and pooled as in the papers."""
    rows = moved.filter(pl.col("coefficient").is_in([-abs(c), 0.0, abs(c)]))
    return clustered_slope(rows).named("clustered") | pooled_slope(rows).named("pooled")


def arm_effects(
    records: list[Record], scores: pl.DataFrame, evaluation: Evaluation
) -> list[Record]:
    """Fold the records of each +c and -c for the papers' table, as `fold_arms` does.

    asymmetry = effect(+c) + effect(-c), 0 if the arms mirror each other. Where each has its right
    sign, it is how much further +c moves than -c.
    """
    by_c, params = {record["coefficient"]: record for record in records}, evaluation.params
    frame, moved = pl.DataFrame(records, infer_schema_length=None), evaluation.movements(scores)
    averaged = [*in_both("side_effect"), "delta_nll", "choice_mass"]
    best, worst = (oracle_effect(evaluation.items, evaluation.target, s) for s in (1, -1))
    known = base_share(moved)
    folded = []
    for both in (
        fold_arms(frame, [], in_both("target_effect"), averaged).sort("coefficient").to_dicts()
    ):
        c, effect = both["coefficient"], both["target_effect"]
        up, down = by_c[c], by_c[-c]
        rows = moved.filter(pl.col("coefficient").abs() == c)
        odd = rows.with_columns(half_span(in_both("effect")))
        even = rows.with_columns(pl.col(in_both("effect")) * 2)
        arms = {"up": up, "down": down}
        folded.append({
            "coefficient": c, **measured(odd, "effect", "target_effect", "ci", params),
            **{name: both[name] for name in averaged},
            **{f"{a}{s}": arms[a][f"target_effect{s}"] for a in arms for s in SUFFIXES},
            **measured(even, "effect", "asymmetry", "asymmetry", params),
            "coherent": up["coherent"] and down["coherent"], "base_share": known,
            "normalized_gain": normalized_gain(effect, both["delta_nll"]),
            "oracle_share": effect / ((best - worst) / 2) if best and worst else None,
            **{k: up[k] for k in up if k.endswith(("_clustered", "_pooled")) or k[:2] == "n_"},
        })  # fmt: skip
    return folded


def base_share(moved: pl.DataFrame) -> float:
    """Return the share of dilemmas in which the untouched model prefers the target's side.

    A model that does not know which side that is has 0.5.
    """
    sums = moved.filter(coefficient=0).group_by("dilemma_id", maintain_order=True)
    return mean(sums.agg(pl.col("y").sum())["y"] > 0)


def seed_effects(effects: pl.DataFrame) -> pl.DataFrame:
    """Return the effect of every single seed at ±1: method, seed, effect, effect_log_odds."""
    single = at_one(effects.filter(pl.col("seed") != MEAN))
    names = renaming(target_effect="effect")
    halves = fold_arms(single, ["method", "seed"], list(names)).rename(names)
    return halves.select("method", "seed", *names.values())
